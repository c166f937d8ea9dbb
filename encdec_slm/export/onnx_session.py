"""Sessions of ONNX Runtime: which device runs a graph, with how many threads, and why one cannot be opened."""

from importlib import import_module
from pathlib import Path
from typing import Any


# short names for what a user has -> execution provider, and the package that brings it
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
# where a provider keeps tensors, if that is not the memory of the processor
DEVICES = {"cuda": "cuda"}


def onnxruntime() -> Any:
    """Returns the module.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ImportError("ONNX Runtime is not installed: pip install onnxruntime, or encdec-slm[export]") from error


def session_options(threads: int | None = None, given: Any = None) -> Any:
    """Returns the options of a session: the caller's or new ones, with so many threads.

    Args:
        threads: Threads of an operator; as ONNX Runtime decides if not given.
        given: `onnxruntime.SessionOptions`, changed only if `threads` is given too.
    """
    options = onnxruntime().SessionOptions() if given is None else given
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads ({threads}) must be at least 1")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def check_provider(provider: str) -> str:
    """Returns the execution provider that a short name stands for.

    Raises:
        ValueError: If there is no such name, or the installed ONNX Runtime has been built without it.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"there is no provider {provider!r}: use one of {', '.join(PROVIDERS)}")
    name, package = PROVIDERS[provider]
    available = onnxruntime().get_available_providers()
    if name not in available:
        raise ValueError(
            f"the provider {provider} ({name}) is not in the installed ONNX Runtime, which has "
            f"{', '.join(available)}: install {package} on a machine that has the device"
        )
    return name


def open_session(
    file: Path, *, provider: str = "cpu", provider_options: dict[str, Any] | None = None, options: Any = None
) -> Any:
    """Returns an inference session of a graph.

    Args:
        file: The graph.
        provider: A name in `PROVIDERS`; what it cannot run is run by the processor.
        provider_options: As the provider knows them, such as `{"device_id": 1}`.
        options: What `session_options` returned.

    Raises:
        ValueError: If the provider is not there, or the graph is missing, damaged, or newer than the runtime.
    """
    runtime = onnxruntime()
    name = check_provider(provider)
    providers = [(name, provider_options or {})]
    if provider != "cpu":
        providers.append((PROVIDERS["cpu"][0], {}))
    if not file.is_file():
        raise ValueError(f"{file.parent} holds half an export: {file.name} is missing. Export the model again")
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    failures = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        return runtime.InferenceSession(file, session_options(given=options), providers=providers)
    except failures as error:
        raise ValueError(
            f"ONNX Runtime {runtime.__version__} cannot load {file}: {error}. If the file is newer than the runtime, "
            "install a newer onnxruntime or export the model with a lower --opset; if it is damaged or its data file "
            "is missing, export it again"
        ) from error

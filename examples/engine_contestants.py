"""Who takes part in `engine_speed.py`: one model in every engine, its peers, and how far each is from float32."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from decoder_only_onnx import DecoderOnly, export_decoder_only
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, set_seed

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.benchmarks.decoding import Contestant, answer
from encdec_slm.benchmarks.footprint import in_a_process_of_its_own, peak_over_base
from encdec_slm.benchmarks.peers import llama_of_equal_size, random_model, t5_of_equal_shape
from encdec_slm.export import load_exported
from encdec_slm.export.command import load_exporter
from encdec_slm.export.report import read_report
from encdec_slm.export.torch_compile import compiled_steps
from encdec_slm.output_folder import output_folder
from encdec_slm.quantization import CpuQuantizationConfig, read_single_rows_


TARGETS = 16
DECODER_ONLY_DTYPES = ("fp32", "int8", "int4")


@dataclass(frozen=True)
class Place:
    """Where contestants find what they are made of, each thing made once.

    Attributes:
        folder: Of a preset; exports, weights and expected logits are under `models`.
        preset: Size of our model.
        threads: Of every engine.
    """

    folder: Path
    preset: str
    threads: int

    @property
    def config(self) -> EncDecSLMConfig:
        """The configuration of our model."""
        return EncDecSLMConfig.from_preset(self.preset)

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder under `models`, which `make` fills if it is not there."""
        folder = self.folder / "models" / name
        if not folder.exists():
            print(f"making {folder}", flush=True)
            with output_folder(folder) as partial:
                make(partial)
        return folder

    def expected(self, name: str, logits: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What a model in float32 computes, asked once."""
        folder = self.made(f"expected_{name}", lambda folder: torch.save(logits(), folder / "logits.pt"))
        return torch.load(folder / "logits.pt")

    def ours(self) -> Path:
        """Our model in float32, saved."""

        def save(folder: Path) -> None:
            set_seed(0)
            EncDecSLMForConditionalGeneration(self.config).eval().save_pretrained(folder)

        return self.made("ours", save)


@dataclass(frozen=True)
class Engine:
    """A way to run a model.

    Attributes:
        load: Returns the model; nothing else of its size is held afterwards.
        error: Returns the largest difference of a logit from the same model's in float32.
        make: Writes what the two read and is not there yet.
        generate_arguments: Of the model's `generate`.
    """

    load: Callable[[Place], Any]
    error: Callable[[Place, Any], float]
    make: Callable[[Place], object]
    generate_arguments: Mapping[str, object] = field(default_factory=dict)

    def peak_bytes(self, place: Place, input_length: int) -> int:
        """What a process of its own holds at most while it answers, less what it held before it loaded the model."""
        (name,) = (name for name, engine in ENGINES.items() if engine is self)
        return in_a_process_of_its_own(_peak_bytes, name, place, input_length)


def _peak_bytes(name: str, place: Place, input_length: int) -> int:
    torch.set_num_threads(place.threads)
    engine = ENGINES[name]

    def prepare() -> Callable[[], object]:
        model = engine.load(place)
        input_ids = words(model.config, input_length)["input_ids"]
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        return lambda: answer(Contestant(name, model, inputs), 4)

    return peak_over_base(prepare, torch.device("cpu"))


def words(config: Any, length: int = 64) -> dict[str, torch.Tensor]:
    """Returns a random input and random targets."""
    generator = torch.Generator().manual_seed(1)
    size = config.get_text_config(decoder=True).vocab_size
    return {
        "input_ids": torch.randint(3, size, (1, length), generator=generator),
        "decoder_input_ids": torch.randint(3, size, (1, TARGETS), generator=generator),
    }


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    """Returns the logits of a model of PyTorch in float32."""
    return model(**words(model.config)).logits.float()


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the largest absolute difference of two tensors."""
    return (one - other).abs().max().item()


def t5(dtype: str) -> Engine:
    """Transformers' T5 of equal shape."""

    def load(place: Place, dtype: str = dtype) -> Any:
        # random in float32, so that all dtypes have the same weights
        set_seed(0)
        return random_model(t5_of_equal_shape(place.config), "float32").to(getattr(torch, dtype))

    def expected(place: Place) -> torch.Tensor:
        return place.expected("t5", lambda: logits_of(load(place, "float32")))

    return Engine(load, lambda place, model: largest_difference(logits_of(model), expected(place)), expected)


@cache
def in_pytorch(place: Place, kind: str) -> Any:
    """Our model in PyTorch: a dtype, `int8` or `int4`, or a dtype and how it is made faster.

    `mv` reads weights by `torch.mv`, `int8` rounds the decoder and the head alone.
    """
    dtype, _, way = kind.partition("-")
    bits, kept = {"int8": (8, ()), "int4": (4, ()), "bfloat16-int8": (8, ("encoder",))}.get(kind, (None, ()))
    model = AutoModelForSeq2SeqLM.from_pretrained(
        place.ours(),
        dtype="float32" if dtype.startswith("int") else dtype,
        quantization_config=None if bits is None else CpuQuantizationConfig(bits, kept),
    ).eval()
    return read_single_rows_(model) if way == "mv" else model


def ours(kind: str) -> Engine:
    """Our model in PyTorch, as `in_pytorch` builds it; the one that is compiled is the other's, and not held twice."""
    kind, compiled, _ = kind.partition("-compiled")

    def expected(place: Place) -> torch.Tensor:
        return place.expected(
            "ours", lambda: logits_of(AutoModelForSeq2SeqLM.from_pretrained(place.ours(), dtype="float32").eval())
        )

    return Engine(
        lambda place: in_pytorch(place, kind),
        lambda place, model: largest_difference(logits_of(model), expected(place)),
        expected,
        compiled_steps() if compiled else {},
    )


def exported(format_: str, dtype: str, **options: Any) -> Engine:
    """Our model in another engine, with options of the exporter; its error is that which the exporter has measured."""
    name = "_".join(("ours", format_, dtype, *options))

    def folder(place: Place) -> Path:
        return place.made(name, lambda folder: load_exporter(format_)(place.ours(), folder, dtype=dtype, **options))

    return Engine(
        lambda place: load_exported(folder(place), threads=place.threads),
        lambda place, model: read_report(folder(place)).max_logit_error,
        folder,
    )


def decoder_only(dtype: str) -> Engine:
    """A Llama of as many parameters, in the same engine and dtype as ours."""

    @cache
    def peer(place: Place) -> tuple[Any, int]:
        with torch.device("meta"):
            parameters = EncDecSLMForConditionalGeneration(place.config).num_parameters()
        return llama_of_equal_size(place.config, parameters), parameters

    def loaded(place: Place) -> Any:
        set_seed(0)
        # of its own configuration: the exported one is told to attend in another way
        return random_model(deepcopy(peer(place)[0]), "float32", AutoModelForCausalLM)

    @torch.no_grad()
    def expected(place: Place) -> torch.Tensor:
        def logits() -> torch.Tensor:
            model = loaded(place)
            return model(words(model.config)["input_ids"], logits_to_keep=1).logits

        return place.expected("decoder_only", logits)

    def folder(place: Place) -> Path:
        return place.made(
            "decoder_only_onnx", lambda folder: export_decoder_only(loaded(place), folder, DECODER_ONLY_DTYPES)
        )

    def error(place: Place, model: Any) -> float:
        logits, _ = model.step(words(model.config)["input_ids"].numpy(), model.empty())
        return largest_difference(torch.from_numpy(logits), expected(place))

    return Engine(
        lambda place: DecoderOnly(folder(place) / dtype, *peer(place), place.threads),
        error,
        lambda place: (expected(place), folder(place)),
    )


# peers' names begin with what they are; all others are ours
ENGINES: Mapping[str, Engine] = {
    "T5 float32": t5("float32"),
    "T5 bfloat16": t5("bfloat16"),
    "PyTorch float32": ours("float32"),
    "PyTorch float32-compiled": ours("float32-compiled"),
    "PyTorch bfloat16": ours("bfloat16"),
    "PyTorch bfloat16-mv": ours("bfloat16-mv"),
    "PyTorch bfloat16-int8": ours("bfloat16-int8"),
    "PyTorch int8": ours("int8"),
    "PyTorch int4": ours("int4"),
    "ONNX Runtime fp32": exported("onnx", "fp32"),
    "ONNX Runtime int8": exported("onnx", "int8"),
    "ONNX Runtime int4": exported("onnx", "int4"),
    "ONNX Runtime int4, head int4": exported("onnx", "int4", keep=[]),
    "CTranslate2 int8": exported("ctranslate2", "int8"),
    **{f"decoder-only, ONNX Runtime {dtype}": decoder_only(dtype) for dtype in DECODER_ONLY_DTYPES},
}


def is_peer(name: str) -> bool:
    """Whether a contestant is somebody else's architecture."""
    return name.startswith(("T5 ", "decoder-only"))

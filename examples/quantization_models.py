"""The models that `quantization_report.py` compares: one checkpoint in every engine and precision."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig

from encdec_slm.export import load_exported
from encdec_slm.export.command import load_exporter
from encdec_slm.quantization import CpuQuantizationConfig


WEIGHTS = ("*.safetensors", "model.bin", "*.onnx", "*.onnx_data")


@dataclass(frozen=True)
class Source:
    """What is rounded.

    Attributes:
        model: Folder of a text model, with its tokenizer.
        texts: File of texts such as the model reads, one a line.
        config: Of the model.
        threads: Of every engine.
    """

    model: str
    texts: Path
    config: PreTrainedConfig
    threads: int

    @property
    def ends(self) -> list[str]:
        """Patterns of the layers that are kept most often: the first and the last of each stack, and the head."""
        depths: dict[str, Any] = {
            name: getattr(self.config, name).num_hidden_layers - 1 for name in ("encoder", "decoder")
        }
        return ["lm_head", *(rf"{stack}\.layers\.(0|{last})\." for stack, last in depths.items())]


# writes or saves to a folder, and returns the model
Maker = Callable[[Source, Path], Any]


def in_pytorch(**options: Any) -> Maker:
    """Loaded with some options of `from_pretrained`, and saved to see its size."""

    def make(source: Source, folder: Path) -> Any:
        model = AutoModelForSeq2SeqLM.from_pretrained(source.model, **options).eval()
        model.save_pretrained(folder)
        return model

    return make


def exported(format_: str, dtype: str, options: Callable[[Source], Mapping[str, Any]] = lambda source: {}) -> Maker:
    """Exported, with some options of the format."""

    def make(source: Source, folder: Path) -> Any:
        load_exporter(format_)(source.model, folder, dtype=dtype, **options(source))
        return load_exported(folder, threads=source.threads)

    return make


def rounded(bits: int, *kept: str) -> Maker:
    """In PyTorch, in few bits."""
    return in_pytorch(quantization_config=CpuQuantizationConfig(bits, kept))


MODELS: Mapping[str, Maker] = {
    "PyTorch float32": in_pytorch(),
    "PyTorch bfloat16": in_pytorch(dtype=torch.bfloat16),
    "PyTorch int8": rounded(8),
    "PyTorch int8, head float32": rounded(8, "lm_head"),
    "PyTorch int4, head int8": rounded(4),
    "PyTorch int4, head float32": rounded(4, "lm_head"),
    "ONNX Runtime fp32": exported("onnx", "fp32"),
    "ONNX Runtime fp16": exported("onnx", "fp16"),
    "ONNX Runtime int8": exported("onnx", "int8"),
    "ONNX Runtime int8, head float32": exported("onnx", "int8", lambda source: {"keep": ["lm_head"]}),
    "ONNX Runtime int8, head and end layers float32": exported("onnx", "int8", lambda source: {"keep": source.ends}),
    "ONNX Runtime int8, calibrated": exported("onnx", "int8", lambda source: {"calibrate": source.texts}),
    "ONNX Runtime int4, head int4": exported("onnx", "int4", lambda source: {"keep": []}),
    "ONNX Runtime int4, head int8": exported("onnx", "int4"),
    "ONNX Runtime int4, head and end layers int8": exported("onnx", "int4", lambda source: {"keep": source.ends}),
    "CTranslate2 fp32": exported("ctranslate2", "fp32"),
    "CTranslate2 int8": exported("ctranslate2", "int8"),
}


@contextmanager
def models(source: Source, names: Sequence[str]) -> Iterator[dict[str, tuple[Any, float]]]:
    """Name -> model and megabytes of its weights; what is written for that lies in a temporary folder."""
    with TemporaryDirectory() as temporary:
        found = {}
        for index, name in enumerate(names):
            print(name, flush=True)
            folder = Path(temporary, str(index))
            model = MODELS[name](source, folder)
            found[name] = (model, megabytes(folder))
        yield found


def megabytes(folder: Path) -> float:
    """Size of the weights and graphs in a folder."""
    return sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)) / 2**20

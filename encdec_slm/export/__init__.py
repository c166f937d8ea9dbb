"""Models of ours in the formats of other engines, and the models that run them with `generate`.

What an engine needs is imported when it is used: importing this part needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from encdec_slm.export.load import RUNTIMES, is_exported, load_exported


if TYPE_CHECKING:
    from encdec_slm.export.ctranslate2_model import CT2EncDecSLM
    from encdec_slm.export.onnx_model import ORTEncDecSLM
    from encdec_slm.export.onnx_vision_model import ORTEncDecSLMVision


def __getattr__(name: str) -> Any:
    for module, runtime in RUNTIMES.values():
        if name == runtime:
            return getattr(import_module(module), runtime)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["CT2EncDecSLM", "ORTEncDecSLM", "ORTEncDecSLMVision", "is_exported", "load_exported"]

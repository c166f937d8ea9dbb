"""Weights of 8 or 4 bits without leaving PyTorch: a quantiser of Transformers, for decoding on a CPU.

`import encdec_slm` registers it: `from_pretrained(..., quantization_config=CpuQuantizationConfig(bits=8))` works
then, and what was saved quantised is loaded as it was.
"""

import re
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from encdec_slm.quantization.linear import Int4Linear, Int8Linear, SingleRowLinear


METHOD = "encdec_slm_cpu"
# what reads a whole input at once, not a token: 4 bits would save nothing while decoding and cost time before it. The
# head is where rounding changes the choice of a token
EIGHT_BITS_AT_LEAST = r"(^|\.)encoder\.|encoder_attn\.kv_proj$|lm_head$"

Model = TypeVar("Model", bound=PreTrainedModel)


class CpuQuantizationConfig(QuantizationConfigMixin):
    """How linear layers are rounded.

    Args:
        bits: 8, or 4 for what the decoder does at every token (the encoder, the keys and values of cross-attention
            and the head then have 8).
        modules_to_not_convert: Layers that stay as they are, as other quantisers of Transformers take them: names of
            layers or of parts that hold them, whole or their endings (`lm_head`, `layers.0.mlp.down_proj`), or regular
            expressions (`model.decoder.layers.*.mlp`). A part may be named without what stands before it (`encoder`).

    Raises:
        ValueError: If there is no kernel for so many bits, or an expression is none.
    """

    def __init__(self, bits: int = 8, modules_to_not_convert: Iterable[str] | None = None, **kwargs: Any) -> None:
        if bits not in (4, 8):
            raise ValueError(f"bits is {bits!r}, but there are kernels for 8 and 4 alone")
        self.quant_method: Any = METHOD
        self.bits = bits
        self.modules_to_not_convert = list(modules_to_not_convert or ())
        for pattern in self.modules_to_not_convert:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"modules_to_not_convert has {pattern!r}, which is no regular expression ({error}): name a layer"
                ) from error

    def layer_class(self, name: str, linear: nn.Linear) -> type[Int8Linear] | type[Int4Linear] | None:
        """Returns the class that takes the place of a layer, or None for one that stays."""
        if any(is_kept(name, pattern) for pattern in self.modules_to_not_convert):
            return None
        if self.bits == 8 or re.search(EIGHT_BITS_AT_LEAST, name) or not Int4Linear.takes(linear):
            return Int8Linear
        return Int4Linear


def is_kept(name: str, pattern: str) -> bool:
    """Whether an entry of `modules_to_not_convert` means a layer.

    As in `transformers.quantizers.quantizers_utils.should_convert_module`: an expression ends where a part of the name
    does, a name is also an ending. It begins where a part does, and not at the first one alone.

    Args:
        name: Of the layer, in the whole model.
        pattern: The entry.
    """
    return bool(re.search(rf"(^|\.)(?:{pattern})(?:(?<=\.)|(?=\.|$))", name)) or name.endswith(pattern)


class CpuQuantizer(HfQuantizer):
    """Rounds the layers of a model that has been loaded, or makes place for those that were saved rounded."""

    requires_calibration = False
    quantization_config: CpuQuantizationConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuses what the kernels cannot do.

        Raises:
            ValueError: If the model is to be elsewhere than on the CPU, or this PyTorch has no such kernels.
        """
        device_map = kwargs.get("device_map") or {}
        devices = {str(device) for device in (device_map.values() if isinstance(device_map, dict) else [device_map])}
        if devices - {"cpu"}:
            raise ValueError(
                f"device_map puts the model on {', '.join(sorted(devices - {'cpu'}))}, but {METHOD} computes on the "
                "CPU: use bitsandbytes or torchao there"
            )
        refuse_without_kernels()

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.pre_quantized:
            _replace(model, self.quantization_config, empty=True)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if not self.pre_quantized:
            _replace(model, self.quantization_config, empty=False)
        for module in model.modules():
            if isinstance(module, Int8Linear | Int4Linear):
                module.pack()
        return model

    def is_serializable(self) -> bool:
        """Whether `save_pretrained` writes the rounded weights."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether gradients reach the rounded weights."""
        return False


def refuse_without_kernels() -> None:
    """Asks whether this PyTorch has the kernels.

    Raises:
        ValueError: If it has not.
    """
    missing = [
        f"{namespace}::{name}"
        for namespace, name in (
            ("quantized", "linear_dynamic"),
            ("aten", "_make_per_channel_quantized_tensor"),
            ("aten", "_weight_int4pack_mm_for_cpu"),
        )
        if not hasattr(getattr(torch.ops, namespace), name)
    ]
    if missing or torch.backends.quantized.engine == "none":
        raise ValueError(
            f"torch {torch.__version__} has no {', '.join(missing) or 'engine for 8 bits'} on this machine: export to "
            "ONNX or CTranslate2 instead"
        )


def quantize_(model: Model, dtype: str, *, keep: Iterable[str] = ()) -> Model:
    """Rounds the linear layers of a model in place, as `CpuQuantizationConfig` does when loading, and returns it.

    Args:
        model: On the CPU, any model of Transformers.
        dtype: `int8` or `int4`.
        keep: Layers that stay as they are, as in `modules_to_not_convert`.

    Raises:
        ValueError: If there is no such dtype, the model is not on the CPU, or is quantised already.
    """
    bits = {"int8": 8, "int4": 4}
    if dtype not in bits:
        raise ValueError(f"dtype is {dtype!r}: use one of {', '.join(bits)}")
    if model.device.type != "cpu":
        raise ValueError(f"the model is on {model.device}, but the kernels are the CPU's: call model.to('cpu') first")
    if getattr(model, "quantization_method", None) is not None:
        raise ValueError(f"the model is quantised already ({model.quantization_method}): load its full weights")
    quantizer = CpuQuantizer(CpuQuantizationConfig(bits=bits[dtype], modules_to_not_convert=keep), pre_quantized=False)
    quantizer.validate_environment()
    quantizer.preprocess_model(model)
    quantizer.postprocess_model(model)
    # asked by `save_pretrained`
    cast(Any, model).hf_quantizer = quantizer
    return model


def read_single_rows_(model: Model) -> Model:
    """Lets the decoder and the head of a model read their weights by `torch.mv` where there is one row; returns it.

    Weights, their names and what is saved stay as they are. Worth it for bfloat16 on processors with AVX-512: measure.
    """
    decoder = model.get_decoder()
    for module in (*decoder.modules(), model.get_output_embeddings()):
        if type(module) is nn.Linear:
            module.__class__ = SingleRowLinear
    return model


def _replace(model: PreTrainedModel, config: CpuQuantizationConfig, *, empty: bool) -> None:
    layers = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    names = [name for name, _ in layers]
    for kept in config.modules_to_not_convert:
        if not any(is_kept(name, kept) for name in names):
            raise ValueError(f"modules_to_not_convert names {kept!r}, but the model has no linear layer of that name")
    for name, linear in layers:
        layer_class = config.layer_class(name, linear)
        if layer_class is None:
            continue
        if empty:
            # on the device of the skeleton, which has no memory
            with linear.weight.device:
                layer: nn.Module = layer_class(linear.in_features, linear.out_features, bias=linear.bias is not None)
        else:
            layer = layer_class.from_linear(linear)
        model.set_submodule(name, layer)
        # a rounded head is no longer the embedding: for this model, not for its class
        for ties in ("_tied_weights_keys", "all_tied_weights_keys"):
            keys = dict(getattr(model, ties) or {})
            keys.pop(f"{name}.weight", None)
            setattr(model, ties, keys)

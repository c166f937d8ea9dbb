"""Whether a configuration that somebody else wrote describes its weights, before a model is built from it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding
from transformers.initialization import no_init_weights

from encdec_slm.hub.checkpoint_files import Shapes
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.modeling_encdec_slm import EncDecSLMDecoderLayer, EncDecSLMEncoderLayer


# fields that say how often something is built; every layer has a tensor
DEPTHS = re.compile(r"(^|_)(layers?|blocks?|depths?)$")
# fields that may name a kernel on the Hub, which is compiled code
KERNELS = {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
# a model may take more room than its weights on disk where they are packed, 4 bits of 32 at the most
LARGEST_GROWTH = 16
# a base model calls its tensors as the whole one does, without this
BASE_PREFIX = "model."
# what the Auto classes load of our text model, by its names there
PARTS = {
    AutoModel: ("encoder", "decoder"),
    AutoModelForSeq2SeqLM: ("encoder", "decoder", "lm_head"),
    AutoModelForTextEncoding: ("encoder",),
}
LAYERS = {"encoder": EncDecSLMEncoderLayer, "decoder": EncDecSLMDecoderLayer}


def check_numbers(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuses what a configuration class or a model would build without end, whatever its type.

    Args:
        config: What `config.json` holds.
        shapes: Of the tensors of the weights.

    Raises:
        ValueError: If there would be more layers than tensors, or more labels than a tensor has rows, if a size is
            left to be searched for, or if a kernel of the Hub is asked for.
    """
    _check_pixel_shuffle(dict(_entries(config)))
    largest = max((max(shape, default=1) for shape in shapes.values()), default=0)
    for path, value in _entries(config):
        field = path.rpartition(".")[2]
        # one for all, or one by part of the model
        if KERNELS & {*path.split(".")} and isinstance(value, str) and "/" in value:
            raise ValueError(
                f"config.json asks for the kernel {value!r} ({path}), which is code of another repository: if you "
                "trust it, pass attn_implementation to from_pretrained yourself"
            )
        if type(value) is not int:
            continue
        if DEPTHS.search(field) and value > len(shapes):
            raise ValueError(f"config.json says {path}={value}, but the weights hold {len(shapes)} tensors in all")
        if field == "num_labels" and value > max(largest, 2):
            raise ValueError(
                f"config.json says {path}={value}, but no side of a tensor of the weights exceeds {largest}"
            )


def _check_pixel_shuffle(entries: Mapping[str, Any]) -> None:
    """The vision configuration tries one factor after the other, and for each of them all sizes of an image."""
    for path, value in entries.items():
        factor = path.replace("image_token_compression", "pixel_shuffle_factor")
        if factor != path and value == "pixel_shuffle" and type(entries.get(factor)) is not int:
            raise ValueError(
                f"config.json does not say {factor}, which save_pretrained writes, and the search for it may never "
                "end: load the model where you trust it and save it again"
            )


def check_model_size(config: Any, auto_class: Any, shapes: Shapes) -> None:
    """Refuses a configuration whose model is not that of the weights, or much larger. Allocates nothing.

    Of our text models every tensor is compared, of others the number of parameters.

    Args:
        config: Of a model whose class is installed.
        auto_class: Auto class that would load it.
        shapes: Of the tensors of the weights.

    Raises:
        ValueError: If they do not fit together.
    """
    # quantised weights have other shapes, and a vision tower is saved under the names of its own library
    is_plain = type(config) is EncDecSLMConfig and getattr(config, "quantization_config", None) is None
    if is_plain and auto_class in PARTS:
        _check_tensors(config, PARTS[auto_class], shapes)
        return
    model = _empty(auto_class.from_config, config, trust_remote_code=False)
    described = sum(parameter.numel() for parameter in model.parameters())
    held = sum(math.prod(shape) for shape in shapes.values())
    if described > LARGEST_GROWTH * held:
        raise ValueError(f"config.json describes a model of {described:,} parameters, but the weights hold {held:,}")


def check_adapter(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuses adapters that would be larger than their weights, or import what they name.

    Args:
        config: What `adapter_config.json` holds.
        shapes: Of the tensors of the weights.

    Raises:
        ValueError: If it is not a LoRA adapter, a rank is larger than every tensor, or it names a library to import.
    """
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"adapter_config.json says peft_type={config.get('peft_type')!r}, but only LORA is checked here: load it "
            "by PEFT if you trust it"
        )
    if config.get("megatron_config") is not None:
        raise ValueError(
            f"adapter_config.json sets megatron_config, for which the module {config.get('megatron_core')!r} would be "
            "imported: load it by PEFT if you trust it"
        )
    largest = max((max(shape, default=1) for shape in shapes.values()), default=0)
    for path, value in _entries({name: config.get(name) for name in ("r", "rank_pattern", "layer_replication")}):
        if type(value) is int and value > largest:
            raise ValueError(
                f"adapter_config.json says {path}={value}, but no side of a tensor of its weights exceeds {largest}"
            )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields what lies in nested objects and lists, with the names on the way to it."""
    pending = [("", value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, Mapping):
            pending += [(f"{path}.{key}".removeprefix("."), below) for key, below in item.items()]
        elif isinstance(item, list):
            pending += [(path, below) for below in item]
        else:
            yield path, item


def _empty(build: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """Builds a module that has shapes and no values."""
    try:
        with torch.device("meta"):
            return build(*args, **kwargs)
    # what torch says of sizes that it cannot count
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"config.json describes a model that cannot be built: {reason}") from error


def _check_tensors(config: EncDecSLMConfig, parts: Sequence[str], shapes: Shapes) -> None:
    held = {name.removeprefix(BASE_PREFIX): shape for name, shape in shapes.items()}
    # of each stack, by what its first layer is called
    depths = {f"{stack}.layers.0.": getattr(config, stack).num_hidden_layers for stack in LAYERS}
    for names, shape in described_tensors(config, parts):
        first = next((prefix for prefix in depths if names[0].startswith(prefix)), None)
        if first is None:
            _check_tensor(names, shape, held)
            continue
        # the weights are of so many layers as config.json says, or this ends where they do
        for layer in range(depths[first]):
            _check_tensor([_of_layer(name, first, layer) for name in names], shape, held)
        beyond = _of_layer(names[0], first, depths[first])
        if beyond in held:
            raise ValueError(f"the weights hold {beyond}, but config.json says that there are {depths[first]} layers")


def _check_tensor(names: list[str], shape: tuple[int, ...], held: Shapes) -> None:
    found = [name for name in names if name in held]
    if not found:
        raise ValueError(f"config.json describes the tensor {names[0]}, but the weights do not hold it")
    for name in found:
        if held[name] != shape:
            raise ValueError(f"{name} is {held[name]} in the weights, but {shape} by the sizes in config.json")


def described_tensors(config: EncDecSLMConfig, parts: Sequence[str]) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Yields the names, several if it is shared, and the shape of each tensor, of all layers only the first's.

    A whole model would tell the same, and take longer to build than all other checks.
    """
    embeddings: dict[str, tuple[int, ...]] = {}
    for stack in (part for part in parts if part in LAYERS):
        sizes = getattr(config, stack)
        embeddings[f"{stack}.embed_tokens.weight"] = (sizes.vocab_size, sizes.hidden_size)
        # there is nothing to draw; of a whole model this would leave out the tying of its weights
        with no_init_weights():
            layer = _empty(LAYERS[stack], sizes, layer_idx=0)
        for name, parameter in layer.named_parameters():
            yield [f"{stack}.layers.0.{name}"], tuple(parameter.shape)
        yield [f"{stack}.norm.weight"], (sizes.hidden_size,)
    if "lm_head" in parts:
        embeddings["lm_head.weight"] = embeddings["decoder.embed_tokens.weight"]
        if config.lm_head_bias:
            yield ["lm_head.bias"], (config.vocab_size,)
    # halves of different width do not share theirs
    shared: dict[Any, list[str]] = {}
    for name, shape in embeddings.items():
        shared.setdefault(shape if config.tie_word_embeddings else (shape, name), []).append(name)
    yield from ((names, embeddings[names[0]]) for names in shared.values())


def _of_layer(name: str, first: str, layer: int) -> str:
    return name.replace(first, f"{first.removesuffix('0.')}{layer}.", 1)

"""Which models are compared: peers of a named size by their names, folders and ids of the Hub, exported folders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.generation.utils import GenerationMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from encdec_slm.benchmarks.decoding import Contestant
from encdec_slm.benchmarks.footprint import available_bytes
from encdec_slm.benchmarks.peers import (
    llama_of_equal_size,
    random_model,
    t5_of_equal_shape,
    t5_of_equal_size,
    t5gemma_of_equal_size,
)


MODEL_TYPE = "encdec_slm"
SUBJECT = "encoder-decoder"
DECODER_ONLY = "decoder-only"
EQUAL_SHAPE = "t5-shape"
# the peers of equal size, by the names that the command knows them by
PEERS: dict[str, Callable[[Any, int], PreTrainedConfig]] = {
    DECODER_ONLY: llama_of_equal_size,
    "t5": t5_of_equal_size,
    "t5gemma": t5gemma_of_equal_size,
}
NAMES = (SUBJECT, *PEERS, EQUAL_SHAPE)
# what two models may differ by and still be called equal in size
EQUAL = 0.01
# so narrow that the arithmetic takes no time: what is left is Python and the dispatch of operations
OVERHEAD = "overhead"
OVERHEAD_STACK = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
}
ExportLoader = Callable[..., Any]


@dataclass(frozen=True)
class Candidate:
    """A model that is to be built, here or in another process.

    Attributes:
        name: What tables call it.
        source: A configuration for random weights, or the folder or id that weights come from.
        config: Of the model; None for an exported one.
        parameters: Their number; None for an exported one.
        generate_arguments: What `generate` gets besides what all get.
        load_exported: What loads an exported folder, of a folder and a number of threads.
    """

    name: str
    source: PreTrainedConfig | str
    config: Any = None
    parameters: int | None = None
    generate_arguments: Mapping[str, object] = field(default_factory=dict)
    load_exported: ExportLoader | None = None

    @property
    def auto_class(self) -> Any:
        """The Auto class of the architecture."""
        return AutoModelForSeq2SeqLM if self.config.is_encoder_decoder else AutoModelForCausalLM

    def build(self, dtype: str, device: torch.device, attention: str | None) -> Any:
        """Returns the model, ready to generate as many tokens as it is asked for."""
        if self.load_exported is not None:
            model = self.load_exported(self.source, threads=torch.get_num_threads())
            if model is None:
                raise ValueError(f"{self.source} is no exported model: leave out --exported, or export it first")
            return model
        options = {} if attention is None else {"attn_implementation": attention}
        if isinstance(self.source, PreTrainedConfig):
            with torch.device(device):
                return random_model(self.source, dtype, self.auto_class, **options)
        model = self.auto_class.from_pretrained(self.source, dtype=dtype, **options).to(device).eval()
        # an end of the answer would make it shorter than the others'
        model.generation_config.eos_token_id = None
        return model

    def contestant(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> Contestant:
        """Returns the model with what it is asked."""
        return Contestant(
            self.name,
            model,
            {**inputs, **self.generate_arguments},
            # an engine of another kind hands over whole answers
            streams=isinstance(model, GenerationMixin) and self.load_exported is None,
        )


def base_config(preset: str, longest: int) -> Any:
    """Returns the configuration of a named size, or that of the framework's overhead, with room for long inputs.

    Args:
        preset: The name.
        longest: Positions that are needed.
    """
    config_class: Any = CONFIG_MAPPING[MODEL_TYPE]
    if preset == OVERHEAD:
        stacks = {
            name: {**OVERHEAD_STACK, "num_hidden_layers": depth} for name, depth in (("encoder", 20), ("decoder", 10))
        }
        config = config_class(**stacks)
    else:
        config = config_class.from_preset(preset)
    for stack in (config.encoder, config.decoder):
        stack.max_position_embeddings = max(stack.max_position_embeddings, longest)
    return config


def choose(
    models: Sequence[str],
    *,
    preset: str,
    longest: int,
    uncached: bool = False,
    exported: Sequence[str] = (),
    load_exported: ExportLoader | None = None,
) -> list[Candidate]:
    """Returns what is compared, in the order in which it was asked for.

    Args:
        models: Names of peers, folders, and ids of the Hub.
        preset: Named size that the peers have.
        longest: Positions that a model needs for the longest input and its answer.
        uncached: Adds the same models without a cache, those without an export.
        exported: Folders of exported models.
        load_exported: Loads them.

    Raises:
        ValueError: If there are fewer than two models, one is there twice, an input is too long for one, or a peer is
            not of equal size.
    """
    found = [_named(name, base_config(preset, longest)) if name in NAMES else _loaded(name) for name in models]
    if uncached:
        found += [
            Candidate(f"{one.name}, no cache", one.source, one.config, one.parameters, {"use_cache": False})
            for one in found
        ]
    if exported and load_exported is None:
        raise ValueError(f"{exported[0]} is an exported model, and nothing was given that loads it")
    found += [Candidate(folder, folder, load_exported=load_exported) for folder in exported]
    if len(found) < 2:
        raise ValueError(
            f"a comparison needs two models or more, but {len(found)} was given: add one of {', '.join(NAMES)}, or a "
            "folder"
        )
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is there twice: name it once")
    for one in found:
        _refuse_long_inputs(one, longest)
    return found


def _named(name: str, config: Any) -> Candidate:
    parameters = parameters_of(config)
    if name == SUBJECT:
        return Candidate(name, config, config, parameters)
    if name == EQUAL_SHAPE:
        peer: PreTrainedConfig = t5_of_equal_shape(config)
        return Candidate(name, peer, peer, parameters_of(peer))
    peer = PEERS[name](config, parameters)
    found = parameters_of(peer)
    if abs(found / parameters - 1) > EQUAL:
        raise ValueError(
            f"{name} of equal size would have {found:,} parameters, but {SUBJECT} has {parameters:,}: this size is "
            "too small for it; use a larger preset"
        )
    return Candidate(name, peer, peer, found)


def _loaded(source: str) -> Candidate:
    config = AutoConfig.from_pretrained(source)
    return Candidate(source, source, config, parameters_of(config))


def parameters_of(config: PreTrainedConfig) -> int:
    """Returns the number of parameters of a model that generates, without building it."""
    auto_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return auto_class.from_config(config).num_parameters()


def _refuse_long_inputs(one: Candidate, longest: int) -> None:
    if one.config is None:
        return
    positions = getattr(one.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and positions < longest:
        raise ValueError(
            f"{one.name} has {positions:,} positions, but input and answer may take {longest:,}: shorten "
            "--input-length, or leave the model out"
        )


def refuse_what_does_not_fit(found: Sequence[Candidate], dtype: str, device: torch.device) -> None:
    """Refuses models that the memory cannot hold, before any of them is built.

    Args:
        found: Models; those of one source are built once.
        dtype: Of the weights.
        device: Where they are to be.

    Raises:
        ValueError: If their weights, and those of the largest once more to measure its memory, are more than is free.
    """
    free = available_bytes(device)
    if free is None:
        return
    width = getattr(torch, dtype).itemsize
    sizes = {id(one.source): width * one.parameters for one in found if one.parameters is not None}
    needed = sum(sizes.values()) + max(sizes.values(), default=0)
    if needed > free:
        largest = max((one for one in found if one.parameters), key=lambda one: one.parameters or 0)
        raise ValueError(
            f"the weights of {len(sizes)} models in {dtype} take {needed / 1e9:,.1f} GB (the largest, {largest.name} "
            f"with {largest.parameters:,} parameters, twice), but {free / 1e9:,.1f} GB are free: compare fewer or "
            "smaller ones, or in bfloat16"
        )

"""An encoder-decoder that starts from the weights of a decoder-only model of the Llama family."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from encdec_slm.conversion.build import build_model
from encdec_slm.conversion.decoder_only_families import Family, family_of, stack_options
from encdec_slm.conversion.decoder_only_source import Checkpoint
from encdec_slm.conversion.decoder_only_tokens import TokenIds
from encdec_slm.conversion.decoder_only_weights import (
    CROSS_ATTENTION,
    DEFAULT_CROSS_ATTENTION,
    CrossAttention,
    DecoderOnlyTensors,
)
from encdec_slm.conversion.layer_choice import DEFAULT_SPLIT, LayerChoice, choose_layers, list_layers
from encdec_slm.conversion.special_tokens import check_vocab_size, load_tokenizer
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.modeling_encdec_slm import EncDecSLMForConditionalGeneration
from encdec_slm.output_folder import output_folder


logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class DecoderOnlyConversion:
    """What a conversion did.

    Args:
        folder: Where the model is.
        source: The source's configuration.
        layers: Which of its layers the stacks start from.
        cross_attention: What cross-attention starts from.
        tokens: The special tokens.
        config: The new model's configuration.
        parameters: Number of its parameters.
    """

    folder: Path
    source: PreTrainedConfig
    layers: LayerChoice
    cross_attention: CrossAttention
    tokens: TokenIds
    config: EncDecSLMConfig
    parameters: int

    def __str__(self) -> str:
        encoder: Any = self.config.encoder
        dtype = str(self.config.dtype).removeprefix("torch.")
        ids = ", ".join(f"{name.removesuffix('_token_id')} {value}" for name, value in self.tokens.ids.items())
        return "\n".join(
            [
                f"wrote {self.folder}: {self.parameters:,} parameters, {dtype}",
                f"  source    {self.source.model_type}, {self.source.num_hidden_layers} layers",
                f"  encoder   {len(self.layers.encoder)} layers from {list_layers(self.layers.encoder)}",
                f"  decoder   {len(self.layers.decoder)} layers from {list_layers(self.layers.decoder)}, "
                f"cross-attention {self.cross_attention}",
                f"  sizes     hidden {encoder.hidden_size}, ffn {encoder.intermediate_size}, "
                f"{encoder.num_attention_heads} heads of {encoder.head_dim}, {encoder.num_key_value_heads} kv, "
                f"{encoder.max_position_embeddings} positions, {encoder.vocab_size} tokens",
                f"  tokens    {ids}",
            ]
        )


@dataclass(frozen=True, kw_only=True)
class _Started:
    model: EncDecSLMForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase | None
    source: PreTrainedConfig
    layers: LayerChoice
    tokens: TokenIds


def from_decoder_only(
    model: PreTrainedModel | str | PathLike[str],
    *,
    encoder_layers: int | None = None,
    decoder_layers: int | None = None,
    split: str = DEFAULT_SPLIT,
    layers: str | None = None,
    cross_attention: CrossAttention = DEFAULT_CROSS_ATTENTION,
    cross_attention_rope: bool = False,
    tokenizer: PreTrainedTokenizerBase | str | PathLike[str] | None = None,
    gguf_file: str | None = None,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
) -> EncDecSLMForConditionalGeneration:
    """Returns an encoder-decoder that starts from a decoder-only model: Llama, Mistral, Qwen2, Qwen3 or Gemma.

    Embeddings, norms, self-attention and feed-forward blocks are those of the source's layers that each stack starts
    from. With all layers in the decoder and `cross_attention="zero"` the new model computes what the source computes
    from the same decoder input, whatever the encoder reads. Nothing is trained: with fewer layers, and attention in
    both directions in the encoder, it has to be.

    Args:
        model: The model, its folder, its id on the Hub, or a GGUF file. An object is not changed.
        encoder_layers: Layers of the encoder; by default what `split` or `layers` says.
        decoder_layers: Layers of the decoder, likewise.
        split: Layers of encoder and decoder as fractions of the source's.
        layers: Which layers of the source: `even`, `first`, `first-last`, `last`, or a list such as `0-4,25-29`; for
            both stacks, or ENCODER/DECODER as in `first/0-4,25-29`.
        cross_attention: `self` copies the self-attention of the layer. `zero` does too but for the output
            projection, which is zero: the decoder starts as a language model that does not hear the encoder.
        cross_attention_rope: Whether cross-attention rotates queries and keys, as the source's self-attention does.
        tokenizer: Tokenizer or folder of one, which tells the special tokens; by default the source's. An object is
            not changed.
        gguf_file: File of the folder or repository, if its weights are GGUF; they are unpacked.
        dtype: Of the weights; "auto" for the source's.
        revision: Branch, tag or commit of the repository.
        token: Of the Hub.

    Raises:
        ImportError: If a package that reads GGUF files is missing.
        OSError: If the repository does not exist, or it or the folder has no model.
        ValueError: If the source cannot be carried exactly, or the layers asked for do not exist.

    Example:
    ```python
    model = from_decoder_only("HuggingFaceTB/SmolLM2-135M", split="2/3-1/3", layers="first/first-last")
    ```
    """
    source = _open(model, gguf_file=gguf_file, revision=revision, token=token)
    choose = partial(
        choose_layers, encoder_layers=encoder_layers, decoder_layers=decoder_layers, split=split, layers=layers
    )
    return _start(source, choose, cross_attention, cross_attention_rope, tokenizer, dtype).model


def convert_decoder_only(
    model: PreTrainedModel | str | PathLike[str],
    output: str | PathLike[str],
    *,
    encoder_layers: int | None = None,
    decoder_layers: int | None = None,
    split: str = DEFAULT_SPLIT,
    layers: str | None = None,
    cross_attention: CrossAttention = DEFAULT_CROSS_ATTENTION,
    cross_attention_rope: bool = False,
    tokenizer: PreTrainedTokenizerBase | str | PathLike[str] | None = None,
    gguf_file: str | None = None,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> DecoderOnlyConversion:
    """Writes what `from_decoder_only` returns, with the tokenizer, to a folder that `AutoModelForSeq2SeqLM` loads.

    The tokenizer pads on the right with the model's token; its chat template stays. Of the source's generation
    configuration only the special tokens are carried.

    Args:
        model: As in `from_decoder_only`, and so are all arguments but two.
        output: Folder to write.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        split: Layers of encoder and decoder as fractions of the source's.
        layers: Which layers of the source.
        cross_attention: `self` or `zero`.
        cross_attention_rope: Whether cross-attention rotates queries and keys.
        tokenizer: Tokenizer or folder of one; by default the source's.
        gguf_file: File of the folder or repository.
        dtype: Of the weights.
        revision: Branch, tag or commit of the repository.
        token: Of the Hub.
        overwrite: Whether `output` may hold something. Its model and tokenizer files are replaced, all others stay.

    Returns:
        What was done.

    Raises:
        ImportError: As in `from_decoder_only`. Nothing is written upon an error.
        OSError: As in `from_decoder_only`.
        ValueError: As in `from_decoder_only`, or if `output` holds something and `overwrite` was not given.
    """
    source = _open(model, gguf_file=gguf_file, revision=revision, token=token)
    choose = partial(
        choose_layers, encoder_layers=encoder_layers, decoder_layers=decoder_layers, split=split, layers=layers
    )
    inputs = [] if isinstance(source, PreTrainedModel) else source.local_paths
    if isinstance(tokenizer, str | PathLike):
        inputs.append(Path(tokenizer))
    with output_folder(output, overwrite=overwrite, inputs=inputs) as folder:
        started = _start(source, choose, cross_attention, cross_attention_rope, tokenizer, dtype)
        started.model.save_pretrained(folder)
        if started.tokenizer is None:
            logger.warning("The source has no tokenizer, and none is saved with the model: give one.")
        else:
            started.tokens.pad(started.tokenizer)
            started.tokenizer.save_pretrained(folder)
    return DecoderOnlyConversion(
        folder=Path(output),
        source=started.source,
        layers=started.layers,
        cross_attention=cross_attention,
        tokens=started.tokens,
        config=started.model.config,
        parameters=started.model.num_parameters(),
    )


def _open(model: Any, **options: Any) -> PreTrainedModel | Checkpoint:
    if isinstance(model, PreTrainedModel):
        if options["gguf_file"] is not None:
            raise ValueError(f"gguf_file={options['gguf_file']!r} was given with a loaded model: leave one out")
        return model
    if isinstance(model, str | PathLike):
        return Checkpoint.find(model, **options)
    raise ValueError(
        f"{type(model).__name__} is neither a PreTrainedModel nor the name of one: of a wrapped model, give the one "
        "in it (of a PEFT model, what merge_and_unload() returns)"
    )


def _start(
    source: PreTrainedModel | Checkpoint,
    choose: Callable[[int], LayerChoice],
    cross_attention: CrossAttention,
    cross_attention_rope: bool,
    tokenizer: PreTrainedTokenizerBase | str | PathLike[str] | None,
    dtype: torch.dtype | str,
) -> _Started:
    if cross_attention not in CROSS_ATTENTION:
        raise ValueError(f"cross_attention is {cross_attention!r}, but must be one of {', '.join(CROSS_ATTENTION)}")
    wanted_dtype = _parse_dtype(dtype)
    # all that the configuration alone can rule out, before the weights are read
    config = source.config if isinstance(source, PreTrainedModel) else source.load_config()
    family = family_of(config)
    layers = choose(config.num_hidden_layers)
    model = source if isinstance(source, PreTrainedModel) else source.load_model(wanted_dtype)
    weights = DecoderOnlyTensors.of_model(model, family, wanted_dtype)
    tokenizer = _tokenizer(tokenizer, source, config.vocab_size)
    tokens = TokenIds.of_decoder_only(config, model.generation_config, tokenizer)
    our_config, notes = _our_config(config, family, layers, tokens, weights.is_tied, cross_attention_rope)
    for note in (*notes, *tokens.notes):
        logger.warning(note)
    if model.generation_config is not None and model.generation_config.do_sample:
        logger.warning("The source samples by default, the new model does not: pass what you want to `generate`.")
    started = build_model(our_config, weights.to_encoder_decoder(layers, cross_attention), weights.dtype)
    return _Started(model=started, tokenizer=tokenizer, source=config, layers=layers, tokens=tokens)


def _our_config(
    config: PreTrainedConfig,
    family: Family,
    layers: LayerChoice,
    tokens: TokenIds,
    is_tied: bool,
    cross_attention_rope: bool,
) -> tuple[EncDecSLMConfig, list[str]]:
    stack, notes = stack_options(config, family)
    our_config = EncDecSLMConfig(
        encoder={**stack, "num_hidden_layers": len(layers.encoder)},
        decoder={
            **stack,
            "num_hidden_layers": len(layers.decoder),
            "cross_attention_rope": cross_attention_rope,
        },
        **tokens.ids,
        tie_word_embeddings=is_tied and not family.scales_embeddings,
        lm_head_bias=False,
        initializer_range=config.initializer_range,
    )
    return our_config, notes


def _parse_dtype(dtype: torch.dtype | str) -> torch.dtype | None:
    if dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}, but must be 'auto' or a floating point type such as 'bfloat16'")
    return found


def _tokenizer(
    tokenizer: PreTrainedTokenizerBase | str | PathLike[str] | None,
    source: PreTrainedModel | Checkpoint,
    vocab_size: int,
) -> PreTrainedTokenizerBase | None:
    if tokenizer is None:
        return None if isinstance(source, PreTrainedModel) else source.load_tokenizer(vocab_size)
    if isinstance(tokenizer, str | PathLike):
        return load_tokenizer(tokenizer, vocab_size)
    check_vocab_size(tokenizer, vocab_size)
    return copy.deepcopy(tokenizer)

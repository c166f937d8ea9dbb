"""The models of the ablations: one number of parameters, shared out differently between encoder and decoder.

Every layer has as many parameters as every other, in whichever stack it is: a decoder's feed-forward block is narrower
by what its cross-attention takes. Then a split by layers is a split by parameters.
"""

from dataclasses import dataclass
from typing import Any

import torch
from spelling_students import INITIALIZER_RANGE
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.benchmarks.peers import llama_of_equal_size


@dataclass(frozen=True)
class Split:
    """How the layers of a preset are shared out.

    Attributes:
        name: What table and picture call it.
        encoder_share: Share of the layers in the encoder; 0 for a decoder-only model.
        cross_attention_rope: Whether cross-attention compares places, as a decoder-only model does everywhere.
    """

    name: str
    encoder_share: float
    cross_attention_rope: bool = False

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there are two stacks."""
        return self.encoder_share > 0


SHARES = {"1/3-2/3": 1 / 3, "1/2-1/2": 1 / 2, "2/3-1/3": 2 / 3}
SPLITS = {
    split.name: split
    for split in (
        *(Split(name, share) for name, share in SHARES.items()),
        *(Split(f"{name} with places", share, cross_attention_rope=True) for name, share in SHARES.items()),
        Split("decoder-only", 0),
    )
}


def tokens_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The fields of a configuration that follow from a tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def encoder_decoder_config(split: Split, preset: str, tokenizer: PreTrainedTokenizerFast) -> EncDecSLMConfig:
    """The preset with its layers shared out anew, all of them as large as the preset's are on average.

    Raises:
        ValueError: If one of the stacks would have no layer.
    """
    config = EncDecSLMConfig.from_preset(
        preset,
        initializer_range=INITIALIZER_RANGE,
        decoder_start_token_id=tokenizer.bos_token_id,
        **tokens_of(tokenizer),
    )
    encoder, decoder = config.encoder, config.decoder
    layers = encoder.num_hidden_layers + decoder.num_hidden_layers
    encoder_layers = round(layers * split.encoder_share)
    if not 0 < encoder_layers < layers:
        raise ValueError(
            f"the {layers} layers of {preset} cannot be split {split.name}: one stack would have none; use a larger "
            "preset"
        )
    # a cross-attention has the size of a self-attention, which is as many parameters as this of feed-forward width
    attention = encoder.num_attention_heads * encoder.head_dim + encoder.num_key_value_heads * encoder.head_dim
    # two thirds of the preset's layers have no cross-attention, a third has one
    width = encoder.intermediate_size + attention * decoder.num_hidden_layers // layers
    encoder.num_hidden_layers, decoder.num_hidden_layers = encoder_layers, layers - encoder_layers
    encoder.intermediate_size, decoder.intermediate_size = width, width - attention
    decoder.cross_attention_rope = split.cross_attention_rope
    for stack in (encoder, decoder):
        stack.dropout = stack.attention_dropout = 0.0
    return config


def build(split: Split, preset: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model with random weights; a decoder-only one is a Llama with as many parameters.

    Args:
        split: How the parameters are shared out.
        preset: Named size.
        tokenizer: Gives vocabulary and special tokens.
    """
    if split.is_encoder_decoder:
        return EncDecSLMForConditionalGeneration(encoder_decoder_config(split, preset, tokenizer))
    config = encoder_decoder_config(SPLITS["2/3-1/3"], preset, tokenizer)
    with torch.device("meta"):
        parameters = EncDecSLMForConditionalGeneration(config).num_parameters()
    peer = llama_of_equal_size(config, parameters)
    peer.update({**tokens_of(tokenizer), "initializer_range": INITIALIZER_RANGE})
    return AutoModelForCausalLM.from_config(peer)

"""The model that ours has to beat: Transformers' T5 of the same shape, or with the same number of parameters."""

from typing import Any

from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, T5Config


def t5_of_equal_shape(config: Any) -> T5Config:
    """Returns a T5 with the depth, widths, heads and vocabulary of `config`.

    T5 has a key/value head for every query head, so that it is somewhat larger than a model with fewer.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
    """
    encoder, decoder = config.encoder, config.decoder
    return T5Config(
        vocab_size=decoder.vocab_size,
        d_model=decoder.hidden_size,
        d_kv=decoder.head_dim,
        d_ff=decoder.intermediate_size,
        num_layers=encoder.num_hidden_layers,
        num_decoder_layers=decoder.num_hidden_layers,
        num_heads=decoder.num_attention_heads,
    )


def t5_of_equal_size(config: Any, parameters: int) -> T5Config:
    """Returns a T5 of equal shape but for its feed-forward blocks, whose width gives it as many parameters.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
        parameters: Number of parameters to meet, within half a step of 16 of that width.
    """
    peer = t5_of_equal_shape(config)
    attention = 4 * peer.d_model * peer.num_heads * peer.d_kv
    encoder_layers, decoder_layers = config.encoder.num_hidden_layers, config.decoder.num_hidden_layers
    attentions = encoder_layers + 2 * decoder_layers
    left = parameters - peer.vocab_size * peer.d_model - attentions * attention
    peer.d_ff = max(16, round(left / (2 * (encoder_layers + decoder_layers) * peer.d_model) / 16) * 16)
    return peer


def random_model(config: PreTrainedConfig, dtype: str) -> Any:
    """Returns a model of `config` in evaluation mode: speed needs no checkpoint."""
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype).eval()
    # every model has to write as many tokens as it is asked for
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.decoder_start_token_id = 0
    return model

"""The model that ours has to beat: Transformers' T5 with the same shape and the same number of parameters."""

from typing import Any

from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, T5Config


def t5_of_equal_size(config: Any, parameters: int) -> T5Config:
    """Returns a T5 with the depth, width, heads and vocabulary of `config`, and as many parameters.

    T5 has a key/value head for every query head and no biases: the width of its feed-forward block, in steps of 16,
    makes up for what the attention of `config` has less.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
        parameters: Number of parameters to meet.
    """
    encoder, decoder = config.encoder, config.decoder
    attention = 4 * decoder.hidden_size * decoder.num_attention_heads * decoder.head_dim
    attentions = encoder.num_hidden_layers + 2 * decoder.num_hidden_layers
    embedding = decoder.vocab_size * decoder.hidden_size
    layers = encoder.num_hidden_layers + decoder.num_hidden_layers
    left = parameters - embedding - attentions * attention
    return T5Config(
        vocab_size=decoder.vocab_size,
        d_model=decoder.hidden_size,
        d_kv=decoder.head_dim,
        d_ff=max(16, round(left / (2 * layers * decoder.hidden_size) / 16) * 16),
        num_layers=encoder.num_hidden_layers,
        num_decoder_layers=decoder.num_hidden_layers,
        num_heads=decoder.num_attention_heads,
    )


def random_model(config: PreTrainedConfig, dtype: str) -> Any:
    """Returns a model of `config` in evaluation mode: speed needs no checkpoint."""
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype).eval()
    # every model has to write as many tokens as it is asked for
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.decoder_start_token_id = 0
    return model

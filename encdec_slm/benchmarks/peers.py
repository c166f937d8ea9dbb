"""The models that ours has to beat: Transformers' T5 of the same shape, or with the same number of parameters.

With images it is a decoder-only model of LLaVA's layout: a vision tower, a projector, a Llama that reads both.
"""

from typing import Any

from transformers import AutoModelForSeq2SeqLM, InternVLConfig, LlamaConfig, PreTrainedConfig, T5Config


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


def llama_of_equal_size(config: Any, parameters: int) -> LlamaConfig:
    """Returns a Llama of the same width and depth, both stacks together, and with as many parameters.

    Its attention is as wide, in as many groups, but Llama wants a number of heads that divides the hidden size. The
    feed-forward blocks, of three projections each, take what is left.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
        parameters: Number of parameters to meet, within half a step of 16 of the feed-forward width.
    """
    stack = config.decoder
    hidden, groups = stack.hidden_size, stack.num_attention_heads // stack.num_key_value_heads
    width = stack.num_attention_heads * stack.head_dim
    heads = next(
        number
        for number in range(stack.num_attention_heads, width + 1)
        if hidden % number == width % (2 * number) == number % groups == 0
    )
    layers = config.encoder.num_hidden_layers + stack.num_hidden_layers
    norms, attention = 2 * hidden, 2 * hidden * (width + width // groups)
    left = parameters - stack.vocab_size * hidden - hidden - layers * (norms + attention)
    return LlamaConfig(
        vocab_size=stack.vocab_size,
        hidden_size=hidden,
        intermediate_size=max(16, round(left / (3 * layers * hidden) / 16) * 16),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // groups,
        head_dim=width // heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def llava_of_equal_size(config: Any, text_parameters: int) -> InternVLConfig:
    """Returns LLaVA's layout with the same tower, the same layer of it and the same compression of its states.

    It is InternVL, which is LLaVA with pixel shuffle between tower and projector; with a factor of 1 there is none.

    Args:
        config: Configuration of a vision-text encoder-decoder, the tower's in its `encoder`.
        text_parameters: Number of parameters of the text model to meet.
    """
    encoder = config.encoder
    return InternVLConfig(
        vision_config=encoder.vision_config,
        text_config=llama_of_equal_size(config, text_parameters),
        image_token_id=encoder.image_token_id,
        image_seq_length=(encoder.patches_per_side // encoder.pixel_shuffle_factor) ** 2,
        downsample_ratio=1 / encoder.pixel_shuffle_factor,
        vision_feature_layer=encoder.vision_feature_layer,
        projector_hidden_act=encoder.projector_hidden_act,
    )


def random_model(config: PreTrainedConfig, dtype: str, auto_class: Any = AutoModelForSeq2SeqLM) -> Any:
    """Returns a model of `config` in evaluation mode: speed needs no checkpoint."""
    model = auto_class.from_config(config, dtype=dtype).eval()
    # every model has to write as many tokens as it is asked for
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.decoder_start_token_id = 0
    return model

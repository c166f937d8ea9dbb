"""The models that ours has to beat: T5 of the same shape; T5, T5Gemma and a decoder-only Llama of the same size.

With images it is a decoder-only model of LLaVA's layout: a vision tower, a projector, a Llama that reads both.
"""

from typing import Any

from transformers import AutoModelForSeq2SeqLM, InternVLConfig, LlamaConfig, PreTrainedConfig, T5Config, T5GemmaConfig
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig


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


def width_of(parameters: int, matrices: int, hidden_size: int) -> int:
    """Returns the width of feed-forward blocks that have so many parameters in all, in steps that processors like.

    Args:
        parameters: Of all matrices together.
        matrices: Their number.
        hidden_size: Their other side.
    """
    step = 16 if hidden_size >= 512 else 4
    return max(step, round(parameters / (matrices * hidden_size) / step) * step)


def t5_of_equal_size(config: Any, parameters: int) -> T5Config:
    """Returns a T5 of equal shape but for its feed-forward blocks, whose width gives it as many parameters.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
        parameters: Number of parameters to meet, within half a step of that width.
    """
    peer = t5_of_equal_shape(config)
    attention = 4 * peer.d_model * peer.num_heads * peer.d_kv
    encoder_layers, decoder_layers = config.encoder.num_hidden_layers, config.decoder.num_hidden_layers
    attentions = encoder_layers + 2 * decoder_layers
    left = parameters - peer.vocab_size * peer.d_model - attentions * attention
    peer.d_ff = width_of(left, 2 * (encoder_layers + decoder_layers), peer.d_model)
    return peer


def llama_of_equal_size(config: Any, parameters: int) -> LlamaConfig:
    """Returns a Llama of the same width and depth, both stacks together, and with as many parameters.

    Its attention is as wide, in as many groups, but Llama wants a number of heads that divides the hidden size. The
    feed-forward blocks, of three projections each, take what is left.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
        parameters: Number of parameters to meet, within half a step of the feed-forward width.
    """
    stack, hidden = config.decoder, config.decoder.hidden_size
    heads, groups, width = dividing_heads(stack)
    layers = config.encoder.num_hidden_layers + stack.num_hidden_layers
    norms, attention = 2 * hidden, 2 * hidden * (width + width // groups)
    left = parameters - stack.vocab_size * hidden - hidden - layers * (norms + attention)
    return LlamaConfig(
        vocab_size=stack.vocab_size,
        hidden_size=hidden,
        intermediate_size=width_of(left, 3 * layers, hidden),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // groups,
        head_dim=width // heads,
        max_position_embeddings=max(8192, stack.max_position_embeddings),
        tie_word_embeddings=True,
    )


def dividing_heads(stack: Any) -> tuple[int, int, int]:
    """Returns heads, heads for each key/value head, and the width of all heads, of an attention as wide as a stack's.

    Llama and T5Gemma want a number of heads that divides the hidden size: there are more heads and narrower ones.

    Args:
        stack: Configuration of an encoder or decoder.
    """
    groups = stack.num_attention_heads // stack.num_key_value_heads
    width = stack.num_attention_heads * stack.head_dim
    heads = next(
        number
        for number in range(stack.num_attention_heads, width + 1)
        if stack.hidden_size % number == width % (2 * number) == number % groups == 0
    )
    return heads, groups, width


def t5gemma_of_equal_size(config: Any, parameters: int) -> T5GemmaConfig:
    """Returns a T5Gemma of the same width and depths, and with as many parameters.

    Attention and feed-forward blocks are as in `llama_of_equal_size`; no layer has a sliding window or a soft cap, so
    that all do the same work.

    Args:
        config: Configuration of an encoder-decoder, with sub-configurations `encoder` and `decoder`.
        parameters: Number of parameters to meet, within half a step of the feed-forward width.
    """
    stack, hidden = config.decoder, config.decoder.hidden_size
    heads, groups, width = dividing_heads(stack)
    encoder_layers, decoder_layers = config.encoder.num_hidden_layers, stack.num_hidden_layers
    layers = encoder_layers + decoder_layers
    attentions = (encoder_layers + 2 * decoder_layers) * 2 * hidden * (width + width // groups)
    # before and after each part of a layer, and one after each stack
    norms = (4 * encoder_layers + 6 * decoder_layers + 2) * hidden
    # encoder and decoder have an embedding each
    left = parameters - 2 * stack.vocab_size * hidden - attentions - norms
    fields = {
        "vocab_size": stack.vocab_size,
        "hidden_size": hidden,
        "intermediate_size": width_of(left, 3 * layers, hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // groups,
        "head_dim": width // heads,
        "max_position_embeddings": max(8192, stack.max_position_embeddings),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    stacks: dict[str, Any] = {
        name: T5GemmaModuleConfig(num_hidden_layers=depth, layer_types=["full_attention"] * depth, **fields)
        for name, depth in (("encoder", encoder_layers), ("decoder", decoder_layers))
    }
    return T5GemmaConfig(**stacks, vocab_size=stack.vocab_size, tie_word_embeddings=True)


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


def random_model(config: PreTrainedConfig, dtype: str, auto_class: Any = AutoModelForSeq2SeqLM, **options: Any) -> Any:
    """Returns a model of `config` in evaluation mode: speed needs no checkpoint.

    Args:
        config: Of the model.
        dtype: Of its weights.
        auto_class: Which kind of model.
        options: Further ones of `from_config`.
    """
    model = auto_class.from_config(config, dtype=dtype, **options).eval()
    # every model has to write as many tokens as it is asked for
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.decoder_start_token_id = 0
    return model

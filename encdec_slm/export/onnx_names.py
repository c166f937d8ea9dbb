"""What the files of an ONNX export and the tensors of its graphs are called: as by Optimum and transformers.js."""

ENCODER_FILE = "encoder_model.onnx"
DECODER_FILE = "decoder_model_merged.onnx"
# of models that read images alone: their encoder's graph reads embeddings, some of which are features of images
EMBED_FILE = "embed_tokens.onnx"
VISION_FILE = "vision_encoder.onnx"
# of those alone that average encoder states of images before the decoder reads them
CROSS_FILE = "cross_attention.onnx"

ENCODER_MASK = "encoder_attention_mask"
# of graphs with static shapes alone: which places of the cache of self-attention hold a token, the new one too
FILLED_MASK = "decoder_attention_mask"

CACHE_PARTS = ("key", "value")


def cache_names(prefix: str, half: str, layers: int) -> list[str]:
    """Returns the names of a cache's tensors, layer by layer.

    Args:
        prefix: `past_key_values` for what a graph reads, `present` for what it writes.
        half: `decoder` for self-attention, `encoder` for cross-attention.
        layers: Layers of the decoder.

    >>> cache_names("present", "encoder", 1)
    ['present.0.encoder.key', 'present.0.encoder.value']
    """
    return [f"{prefix}.{layer}.{half}.{part}" for layer in range(layers) for part in CACHE_PARTS]

"""The parts of the vision demo: a vocabulary, a small text model, a tower with an encoder-decoder behind it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.efficientnet_lite import IMAGE_MEAN, IMAGE_STD
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from vision_rows import IMAGE_TOKEN

from encdec_slm import (
    EncDecSLMConfig,
    EncDecSLMForConditionalGeneration,
    EncDecSLMVisionForConditionalGeneration,
    EncDecSLMVisionProcessor,
)


VOCABULARY = 1_024
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", IMAGE_TOKEN]
LONGEST_ANSWER = 16
# the edge of the charts, so that their letters stay sharp
IMAGE_SIZE = 224
# The last but one of the tower's maps: a state for each 16 times 16 pixels. In the last, letters could not be read.
TOWER_LAYER = -2
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "max_position_embeddings": 512,
    # in a few epochs it does not overfit, and no random masks are faster
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
# about 1 / sqrt(hidden size), as suits an embedding that is also the head
INITIALIZER_RANGE = 0.07


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Pieces of words of some texts, digits one by one; a word is the same token first in a text and later."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # in this order: the other way round each digit would have a blank before it
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    # without the blank that was put in front
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", SPECIAL_TOKENS.index("</s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def build_text_model(tokenizer: PreTrainedTokenizerFast) -> EncDecSLMForConditionalGeneration:
    """A text model with random weights."""
    config = EncDecSLMConfig(
        encoder={**SHAPE, "num_hidden_layers": 4, "vocab_size": len(tokenizer)},
        decoder={**SHAPE, "num_hidden_layers": 2, "vocab_size": len(tokenizer)},
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    model = EncDecSLMForConditionalGeneration(config)
    model.generation_config.max_new_tokens = LONGEST_ANSWER
    return model


def build_vision_model(
    text_model: EncDecSLMForConditionalGeneration,
    tower: str | Path,
    tokenizer: PreTrainedTokenizerFast,
    **vision_fields: Any,
) -> tuple[EncDecSLMVisionForConditionalGeneration, EncDecSLMVisionProcessor]:
    """A text model that is given a tower, and the processor of both.

    Args:
        text_model: Its weights are copied.
        tower: Folder of the tower.
        tokenizer: Of the text model.
        vision_fields: How an image becomes tokens, as in `EncDecSLMVisionEncoderConfig`.
    """
    model = EncDecSLMVisionForConditionalGeneration.from_text_and_vision_pretrained(
        text_model,
        tower,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_size=IMAGE_SIZE,
        vision_feature_layer=TOWER_LAYER,
        # a picture is one square view
        image_grid_pinpoints=[],
        **vision_fields,
    )
    processor = EncDecSLMVisionProcessor.for_model(model.config, tokenizer, image_mean=IMAGE_MEAN, image_std=IMAGE_STD)
    return model, processor

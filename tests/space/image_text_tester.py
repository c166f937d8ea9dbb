"""Tiny models of the library that read an image and a text, with their processors: what our vision model will do."""

from pathlib import Path
from string import ascii_lowercase

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    set_seed,
)
from transformers.models.gemma3 import Gemma3ImageProcessor, Gemma3Processor


SIDE, PATCH = 28, 14
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
IMAGE_TOKENS = {"boi_token": "<image>", "eoi_token": "</image>", "image_token": "<patch>"}
# what an encoder-decoder reads that has no chat template
TEMPLATE = "<image>{source}"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<patch>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}?"
)
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {**WIDTHS, "image_size": SIDE, "patch_size": PATCH}
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and those that stand for images."""
    tokens = [*SPECIAL_TOKENS.values(), *IMAGE_TOKENS.values(), "?", "\u2581", *ascii_lowercase]
    characters = Tokenizer(models.Unigram([(token, 0.0) for token in tokens], unk_id=tokens.index("<unk>")))
    characters.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    characters.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=characters, extra_special_tokens=IMAGE_TOKENS, **SPECIAL_TOKENS)


def save_encoder_decoder(folder: Path) -> None:
    """A T5Gemma2, which reads `TEMPLATE`."""
    words = tokenizer()
    text = {
        **WIDTHS, **TOKEN_IDS, "vocab_size": len(words), "num_key_value_heads": 1, "head_dim": 16,
        "query_pre_attn_scalar": 16, "sliding_window": 64, "initializer_range": 0.1,
    }  # fmt: skip
    ids = {
        f"{name.removesuffix('_token')}_token_index": words.convert_tokens_to_ids(token)
        for name, token in IMAGE_TOKENS.items()
    }
    config = T5Gemma2Config(
        encoder={
            "text_config": text,
            "vision_config": TOWER,
            "mm_tokens_per_image": 4,
            "vocab_size": len(words),
            **ids,
        },
        decoder=dict(text),
        vocab_size=len(words),
        image_token_index=ids["image_token_index"],
        eos_token_id=2,
    )
    set_seed(0)
    T5Gemma2ForConditionalGeneration(config).save_pretrained(folder)
    images = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    Gemma3Processor(image_processor=images, tokenizer=words, image_seq_length=4).save_pretrained(folder)


def save_decoder_only(folder: Path) -> None:
    """A LLaVA with a chat template."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, projection_dim=32),
        text_config=LlamaConfig(**WIDTHS, **TOKEN_IDS, vocab_size=len(words), initializer_range=0.5),
        image_token_index=words.convert_tokens_to_ids(IMAGE_TOKENS["image_token"]),
        vision_feature_layer=-1,
    )
    set_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKENS["image_token"],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)

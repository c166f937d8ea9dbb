"""Tiny models that read an image and a text, with their processors: one of ours and a decoder-only peer."""

from pathlib import Path

from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    set_seed,
)
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token


SIDE, PATCH = 28, 14
TEMPLATE = f"{IMAGE_TOKEN}\n{{source}}"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}?"
)
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_encoder_decoder(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """One of ours, whose answers do not end by themselves; it reads `TEMPLATE`, as its chat template does."""
    both = {**WITH_IMAGE_TOKEN["both"], "max_position_embeddings": 1_024}
    tester = VisionTester(**{**WITH_IMAGE_TOKEN, "both": both})
    tester.model(eos_token_id=None).save_pretrained(folder)
    processor_of(tester, with_image_token(tokenizer)).save_pretrained(folder)


def save_decoder_only(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """A LLaVA with a chat template."""
    tokenizer = with_image_token(tokenizer)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**WIDTHS, image_size=SIDE, patch_size=PATCH, projection_dim=32),
        text_config=LlamaConfig(
            **WIDTHS, vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=0, bos_token_id=1, eos_token_id=2
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
    )
    set_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)

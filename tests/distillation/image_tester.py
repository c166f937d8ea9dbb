"""Tiny students and teachers that read images, their processors, and rows with none, one or two images."""

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List, Value
from distillation_tester import BOS, EOS, PAD, WORDS, arguments, word_tokenizer
from PIL import Image as Pillow
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    set_seed,
)
from transformers.models.smolvlm import processing_smolvlm
from vision_tester import VisionTester

from encdec_slm import EncDecSLMVisionProcessor
from encdec_slm.distillation import DistillationTrainer


SPECIAL = [
    "<image>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    "<start_of_image>",
    "<image_soft_token>",
    "<end_of_image>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
]
IMAGE_WORDS = [*WORDS, *SPECIAL]
IMAGE_TOKEN_ID = IMAGE_WORDS.index("<image>")
TEXT = {
    "vocab_size": len(IMAGE_WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 2,
    "initializer_range": 0.3,
}
# the line breaks are blanks to the tokenizer
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}z {% endif %}"
)
# what the teachers read for a source behind its images
PROMPTS = {"llava": "{images}{source} z ", "smolvlm": "{images}{source}\n", "qwen2_vl": "{images}{source} z "}
IMAGE_IN_PROMPT = {
    "llava": "<image> ",
    "smolvlm": "<image>\n",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|> ",
}
TEACHERS = tuple(PROMPTS)
# height and width of the images of each row
SIZES = (((8, 8),), (), ((20, 7), (6, 20)), ((30, 41),), (), ((9, 30), (16, 16)), ((12, 5),), ((7, 7), (40, 9)))


def image_tokenizer(end="</s>", **roles):
    """A tokenizer of words and of the special tokens of images."""
    return word_tokenizer(IMAGE_WORDS, end=end, extra_special_tokens=SPECIAL, **roles)


def vision_student(tokenizer=None, **encoder):
    """A random encoder-decoder with a vision tower, and its processor."""
    tokenizer = image_tokenizer() if tokenizer is None else tokenizer
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    vision = {"image_token_id": image_token_id, "max_image_tokens": 14, **encoder}
    tester = VisionTester(
        encoder=vision, both={"vocab_size": len(IMAGE_WORDS), "dropout": 0.0, "attention_dropout": 0.0}
    )
    model = tester.model(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, initializer_range=0.1
    )
    return model, EncDecSLMVisionProcessor.for_model(
        model.config, tokenizer, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def t5gemma2():
    """A T5Gemma 2, whose processor has another token in a text than in ids, and this processor."""
    set_seed(0)
    sizes = {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64, "initializer_range": 0.1}
    names = {f"{name}_token": f"<{kind}_image>" for name, kind in (("boi", "start_of"), ("eoi", "end_of"))}
    names["image_token"] = "<image_soft_token>"
    ids = {f"{name}_index": IMAGE_WORDS.index(token) for name, token in names.items()}
    vision = {"model_type": "siglip_vision_model", **TOWER}
    config = T5Gemma2Config(
        encoder={"text_config": sizes, "vision_config": vision, "mm_tokens_per_image": 4, **ids},
        decoder=dict(sizes),
        image_token_index=ids["image_token_index"],
        decoder_start_token_id=BOS,
    )
    tokenizer = image_tokenizer(model_specific_special_tokens=names)
    image_processor = Gemma3ImageProcessor(size={"height": 8, "width": 8})
    processor = Gemma3Processor(image_processor, tokenizer, image_seq_length=4)
    model = T5Gemma2ForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = BOS
    return with_tokens(model), processor


def llava():
    """A LLaVA with 16 tokens for each image, and its processor."""
    set_seed(1)
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **TOWER},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE_TOKEN_ID,
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        image_tokenizer(end=None),
        patch_size=2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE ", IMAGE_IN_PROMPT["llava"]),
    )
    return with_tokens(LlavaForConditionalGeneration(config)), processor


def smolvlm():
    """A SmolVLM with four tokens for each tile, and its processor without a chat template."""
    set_seed(1)
    config = SmolVLMConfig(
        vision_config={"model_type": "smolvlm_vision", **TOWER},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE_TOKEN_ID,
        scale_factor=2,
    )
    # spells out how many frames a video has, and need not be installed for images
    if processing_smolvlm.num2words is None:
        processing_smolvlm.num2words = str
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size={"longest_edge": 24}, max_image_size={"longest_edge": 8}),
        image_tokenizer(end=None),
        SmolVLMVideoProcessor(),
        image_seq_len=4,
    )
    return with_tokens(SmolVLMForConditionalGeneration(config)), processor


def qwen2_vl():
    """A Qwen2-VL, whose positions are in three dimensions, and its processor."""
    set_seed(1)
    ids = {
        f"{name}_token_id": IMAGE_WORDS.index(f"<|{word}|>")
        for name, word in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope}, vision_config={**vision, "initializer_range": 0.3}, **ids
    )
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 64, "longest_edge": 512}, patch_size=4, merge_size=2),
        image_tokenizer(end=None),
        Qwen2VLVideoProcessor(patch_size=4, merge_size=2),
        chat_template=CHAT.replace("IMAGE ", IMAGE_IN_PROMPT["qwen2_vl"]),
    )
    return with_tokens(Qwen2VLForConditionalGeneration(config)), processor


def with_tokens(model):
    """The model, whose answers end as those of its tokenizer."""
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    model.generation_config.bos_token_id = BOS
    return model.eval()


def image_teacher(name):
    """A random teacher that reads images, and its processor."""
    return {"llava": llava, "smolvlm": smolvlm, "qwen2_vl": qwen2_vl}[name]()


def picture(height, width, seed=0):
    """A random image."""
    pixels = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Pillow.fromarray(pixels)


def image_rows(number=8, images=None, **columns):
    """Rows of unequal lengths with none, one or two images of unequal sizes."""
    generator = torch.Generator().manual_seed(3)

    def text(longest):
        length = int(torch.randint(2, longest, (1,), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(4, len(WORDS), (length,), generator=generator).tolist())

    if images is None:
        images = [[picture(*size) for size in SIZES[row % len(SIZES)]] for row in range(number)]
    content = {
        "images": images,
        "source": [text(7) for _ in range(number)],
        "target": [text(6) for _ in range(number)],
        **columns,
    }
    kinds = dict.fromkeys(content, Value("string")) | {"images": List(Image())}
    return Dataset.from_dict(content, features=Features({name: kinds[name] for name in content}))


def image_trainer(folder, teacher="llava", *, data=None, model=None, **options):
    """A trainer with images; options are those of the arguments, but for those that the trainer takes itself."""
    learner, processor = vision_student() if model is None else model
    asked, teacher_processor = image_teacher(teacher) if isinstance(teacher, str) else teacher
    others = {name: options.pop(name) for name in ("eval_dataset", "peft_config", "callbacks") if name in options}
    return DistillationTrainer(
        model=learner,
        teacher=asked,
        args=arguments(folder, **options),
        train_dataset=image_rows() if data is None else data,
        processing_class=processor,
        teacher_processing_class=teacher_processor,
        **others,
    )


@torch.no_grad()
def image_logits_alone(trainer, name, row):
    """The logits of student and teacher for a row of text: each read by its own processor, without padding."""
    learner, model = trainer.model.eval(), trainer.teacher.model
    labels = trainer.processing_class.tokenizer(row["target"])["input_ids"]
    read = trainer.processing_class(
        text=f"{trainer.processing_class.image_token}\n" * len(row["images"]) + row["source"],
        images=row["images"] or None,
        return_tensors="pt",
    )
    shifted = [learner.generation_config.decoder_start_token_id, *labels[:-1]]
    own = learner(**read, decoder_input_ids=torch.tensor([shifted])).logits[0]
    prompt = PROMPTS[name].format(images=IMAGE_IN_PROMPT[name] * len(row["images"]), source=row["source"])
    asked = dict(
        trainer.teacher.processing_class(
            text=[prompt], images=[row["images"]] if row["images"] else None, return_tensors="pt"
        )
    )
    length = asked["input_ids"].shape[1]
    asked["input_ids"] = torch.cat([asked["input_ids"], torch.tensor([labels])], dim=1)
    del asked["attention_mask"]
    if "mm_token_type_ids" in asked:
        asked["mm_token_type_ids"] = F.pad(asked["mm_token_type_ids"], (0, len(labels)))
    said = model(**asked).logits[0]
    return own.double(), said[length - 1 : length - 1 + len(labels)].double(), torch.tensor(labels)


def image_losses_by_hand(trainer, name, data):
    """The cross-entropy and the forward KL of each label, of all rows alone, in float64."""
    cross_entropies, divergences = [], []
    for row in data:
        own, said, labels = image_logits_alone(trainer, name, row)
        cross_entropies.append(F.cross_entropy(own, labels, reduction="none"))
        p, q = said.log_softmax(dim=-1), own.log_softmax(dim=-1)
        divergences.append((p.exp() * (p - q)).sum(dim=-1))
    return torch.cat(cross_entropies), torch.cat(divergences)

"""Vision checkpoints of the original, microsoft/encoder-decoder-slm, into a folder of ours."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from encdec_slm.conversion.build import build_model
from encdec_slm.conversion.original import (
    read_original_checkpoint,
    to_our_config,
    to_our_state_dict,
    widest_dtype,
)
from encdec_slm.conversion.original_config import OriginalConfig
from encdec_slm.conversion.original_layout import measure
from encdec_slm.conversion.original_vision_config import (
    read_normalisation,
    read_tower_config,
    read_vision_config,
    text_fields,
    tower_source,
    vision_fields,
)
from encdec_slm.conversion.original_vision_layout import (
    has_tower,
    split_text_from_vision,
    to_our_vision_state_dict,
    tower_tensors,
)
from encdec_slm.conversion.special_tokens import add_image_token, load_tokenizer, pad_like_the_model
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig
from encdec_slm.models.modeling_encdec_slm_vision import EncDecSLMVisionForConditionalGeneration
from encdec_slm.models.modeling_encdec_slm_vision_layers import load_tower
from encdec_slm.models.processing_encdec_slm_vision import EncDecSLMVisionProcessor
from encdec_slm.output_folder import output_folder


logger = logging.get_logger(__name__)

WEIGHTS = ("pytorch_model.bin", "model.safetensors")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
IMAGE_TOKEN = "<image>"
# the words around a question with which the released model was trained: the image comes last, whatever the order
CHAT_TEMPLATE = """\
{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}
  {{ raise_exception('the original answers one question: give one message, of the user') }}
{%- endif -%}
{%- set content = messages[0]['content'] -%}
{%- set parts = [{'type': 'text', 'text': content}] if content is string else content -%}
{%- set images = parts | rejectattr('type', 'equalto', 'text') | list -%}
{{- 'Answer the following question based only on the context.\\n###Question: ' -}}
{%- if images -%}{{ '\\n' }}{%- endif -%}
{{- parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') -}}
{%- if images -%}{{ '\\n###Context: ' + '<image>' * (images | length) }}{%- endif -%}
"""


def convert_original_vision(
    folder: str | PathLike[str],
    output: str | PathLike[str],
    *,
    vision_tower: str | PathLike[str] | None = None,
    tokenizer: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts a vision checkpoint of the original into a folder of `AutoModelForImageTextToText` and `AutoProcessor`.

    The converted model sees the pixels that the original sees, if its image processor runs with `backend="pil"`, and
    computes what the original computes. The dtype of the weights is kept.

    Args:
        folder: Folder of the original: config.json, and pytorch_model.bin or model.safetensors.
        output: Folder to write.
        vision_tower: Folder with the configuration of the CLIP tower, with that of its image processor if it has one,
            and with weights where the checkpoint has none of the tower. If not given, the folder `vision_tower` in
            `folder`, or else CLIP ViT-L/14 at 336 pixels, if config.json names it.
        tokenizer: Folder of the tokenizer, to which `<image>` is added; if not given, the one in `folder`. Without
            any, no processor is saved.
        overwrite: Whether `output` may hold something. Its model files are replaced, all others stay.

    Returns:
        The output folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the checkpoint is not a vision model of the original or has settings that are not carried over,
            if configuration, tensors, tower and tokenizer contradict each other, or if `output` holds something and
            `overwrite` was not given. Nothing is written.

    Example:
    ```python
    convert_original_vision("artifacts/models/mu_vision", "encdec-slm-vision")
    processor = AutoProcessor.from_pretrained("encdec-slm-vision", backend="pil")
    model = AutoModelForImageTextToText.from_pretrained("encdec-slm-vision")
    ```
    """
    folder = Path(folder)
    inputs = [path for path in (folder, vision_tower, tokenizer) if path is not None]
    with output_folder(output, overwrite=overwrite, inputs=inputs) as partial:
        source = tower_source(folder, vision_tower)
        stated = read_vision_config(folder)
        tower = read_tower_config(stated, source)
        normalisation = read_normalisation(source, tower)
        text, vision = split_text_from_vision(read_original_checkpoint(_weights_file(folder))[0])
        if not has_tower(vision):
            vision |= _tower_of(source)
        original = OriginalConfig.from_sources(text_fields(stated), measure(text))
        loaded_tokenizer = _load_tokenizer(folder, tokenizer, original.vocab_size)
        config = _to_our_config(original, loaded_tokenizer, vision_fields(stated, tower))
        ours = to_our_state_dict(text, original) | to_our_vision_state_dict(vision, _shapes(config))
        model = build_model(config, ours, widest_dtype(text | vision), EncDecSLMVisionForConditionalGeneration)
        model.save_pretrained(partial)
        if loaded_tokenizer is not None:
            pad_like_the_model(loaded_tokenizer, original.pad_token_id)
            processor = EncDecSLMVisionProcessor.for_model(
                config, loaded_tokenizer, **normalisation, chat_template=CHAT_TEMPLATE, image_token=IMAGE_TOKEN
            )
            processor.save_pretrained(partial)
    return Path(output)


def _weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"the folder {folder} has no weights, neither {' nor '.join(WEIGHTS)}")


def _tower_of(source: Path | None) -> dict[str, torch.Tensor]:
    way_out = "name a folder that has them, with its configuration, with --vision-tower"
    if source is None:
        raise ValueError(f"the checkpoint has no weights of its vision tower: {way_out}")
    try:
        return tower_tensors(load_tower(source).state_dict())
    except OSError as error:
        raise ValueError(
            f"neither the checkpoint nor {source} has the weights of the vision tower: {way_out}"
        ) from error


def _load_tokenizer(
    folder: Path, tokenizer: str | PathLike[str] | None, vocab_size: int
) -> PreTrainedTokenizerBase | None:
    if tokenizer is None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = folder
    return None if tokenizer is None else load_tokenizer(tokenizer, vocab_size)


def _to_our_config(
    original: OriginalConfig, tokenizer: PreTrainedTokenizerBase | None, fields: Mapping[str, Any]
) -> EncDecSLMVisionConfig:
    text = to_our_config(original, tokenizer, lm_head_bias=True)
    if tokenizer is None:
        special = {text.pad_token_id, text.bos_token_id, text.eos_token_id}
        image_token_id = max(token_id for token_id in range(original.vocab_size) if token_id not in special)
        logger.warning(
            "There is no tokenizer in the folder and none was given: no processor is saved, and image_token_id is "
            f"{image_token_id}, the last of the vocabulary, which no text may have. Give a tokenizer."
        )
    else:
        image_token_id = add_image_token(tokenizer, original.vocab_size, IMAGE_TOKEN)
    return EncDecSLMVisionConfig.from_text_config(text, **fields, image_token_id=image_token_id)


def _shapes(config: EncDecSLMVisionConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = EncDecSLMVisionForConditionalGeneration(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}

"""What the original's vision model is: the fields of its config.json, by the names of ours, and those not carried.

The original keeps the fields of LLaVA-NeXT, of which its released model uses few. Sizes are (width, height) there.
"""

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from encdec_slm.conversion.original_config import FIELDS, read_original_config
from encdec_slm.models.configuration_encdec_slm_vision import DEFAULT_VISION_CONFIG


# of the text half: what its tensors cannot tell
NEEDED = ("n_head", "n_kv_head", "block_size", "rope_theta", "rope_factor", "dropout", "pad_token_id")
# by setting: the value that the original takes where config.json has none, and the only one that is converted
CARRIED = {
    "mm_patch_merge_type": ("flat", "spatial_unpad"),
    "mm_projector_type": ("linear", "mlp2x_gelu"),
    "mm_vision_select_feature": ("patch", "patch"),
    "mm_resampler_type": (None, None),
    "mm_use_im_start_end": (False, False),
    "add_faster_video": (False, False),
    "cross_image_pos_embed": (False, False),
    "use_vision_cross_attn": (False, False),
}
# the tower whose configuration is known, and where the folder may have that of another
DEFAULT_TOWER = "clip-vit-large-patch14-336"
TOWER_FOLDER = "vision_tower"
# by setting of the tower's image processor: what the tiles of LLaVA-OneVision have always
PREPROCESSING = {"do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}


def read_vision_config(folder: Path) -> dict[str, Any]:
    """Returns what the folder's config.json says.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not that of a vision model, or has a setting that cannot be carried over.
    """
    path = folder / "config.json"
    config = read_original_config(path)
    if "mm_vision_tower" not in config:
        raise ValueError(
            f"{path} names no mm_vision_tower: this is a text checkpoint, which `encdec-slm convert original` converts"
        )
    refused = [
        f"{name} is {config.get(name, default)!r}, and only {carried!r} is converted"
        for name, (default, carried) in CARRIED.items()
        if config.get(name, default) != carried
    ]
    # what is no number is refused with the other fields of the text half
    if isinstance(rope_factor := config.get("rope_factor"), int | float) and rope_factor > 1:
        refused.append(
            f"rope_factor is {rope_factor!r}, which scales positions by another formula than any of "
            f"Transformers', in inputs of more than block_size ({config.get('block_size')}) tokens: set it to 1.0, as "
            "the released model has it, which changes nothing for inputs up to there"
        )
    missing = [name for name in (*NEEDED, "mm_vision_select_layer", "image_grid_pinpoints") if name not in config]
    refused += [f"{name} is missing" for name in missing]
    if refused:
        raise ValueError(f"{path} is of another model than the original's code makes: {'; '.join(refused)}")
    return config


def text_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the text half by the names of `OriginalConfig`.

    Its heads are paired with those of keys and values as in Transformers, which `is_interleaved` is in the text model,
    and are together as wide as the model.
    """
    stated = {name: config[name] for name in FIELDS if config.get(name) is not None}
    return {**stated, "is_interleaved": True, "qkv_embd": None}


def vision_fields(config: Mapping[str, Any], tower: PreTrainedConfig) -> dict[str, Any]:
    """Returns the fields of `EncDecSLMVisionEncoderConfig`, except those of the image token.

    Raises:
        ValueError: If the tiles or the layer are not ones that can be carried over.
    """
    return {
        "vision_config": tower,
        "vision_feature_layer": _counted_from_the_last(config["mm_vision_select_layer"], tower.num_hidden_layers),
        "image_grid_pinpoints": _pinpoints(config["image_grid_pinpoints"], tower.image_size),
        "max_tiles": _max_tiles(config.get("image_aspect_ratio", "square")),
        "max_image_tokens": None,
        "thumbnail_for_one_tile": True,
    }


def _counted_from_the_last(layer: Any, num_layers: int) -> int:
    if type(layer) is not int or not -num_layers - 1 <= layer <= num_layers:
        raise ValueError(f"mm_vision_select_layer is {layer!r}, but the tower has {num_layers} layers")
    return layer if layer < 0 else layer - num_layers - 1


def _max_tiles(aspect_ratio: Any) -> int | None:
    match = re.fullmatch(r"anyres(_max_([1-9]\d{0,3}))?", str(aspect_ratio))
    if match is None:
        raise ValueError(f"image_aspect_ratio is {aspect_ratio!r}, and only 'anyres' and 'anyres_max_N' are converted")
    return int(match[2]) if match[2] else None


def _pinpoints(stated: Any, image_size: int) -> list[list[int]]:
    """Returns sizes as (height, width) from what the original takes: a list, its text, or a range of tiles."""
    sizes = _parsed_pinpoints(stated, image_size) if isinstance(stated, str) else stated
    if not (isinstance(sizes, list) and sizes and all(_is_size(size) for size in sizes)):
        raise ValueError(
            f"image_grid_pinpoints is {stated!r}, but has to be a list of pairs of a width and a height, or a range "
            "such as '(1x1),...,(2x2)'"
        )
    return [[height, width] for width, height in sizes]


def _parsed_pinpoints(text: str, image_size: int) -> Any:
    tiles = [(int(width), int(height)) for width, height in re.findall(r"\((\d+)x(\d+)\)", text)]
    if tiles:
        widths, heights = (range(first, last + 1) for first, last in zip(tiles[0], tiles[-1], strict=True))
        return [[image_size * width, image_size * height] for width in widths for height in heights]
    try:
        # of tuples too, which JSON has not
        return json.loads(text.replace("(", "[").replace(")", "]"))
    except json.JSONDecodeError:
        return None


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(length) is int and length > 0 for length in size)


def tower_source(folder: Path, vision_tower: str | PathLike[str] | None) -> Path | None:
    """Returns the folder with the tower's configuration; None if it is that of CLIP ViT-L/14 at 336 pixels.

    Raises:
        ValueError: If the folder that was named has none.
    """
    if vision_tower is not None:
        if not (Path(vision_tower) / "config.json").is_file():
            raise ValueError(f"the folder {vision_tower} has no config.json of a vision tower")
        return Path(vision_tower)
    inside = folder / TOWER_FOLDER
    return inside if (inside / "config.json").is_file() else None


def read_tower_config(config: Mapping[str, Any], source: Path | None) -> PreTrainedConfig:
    """Returns the configuration of the tower.

    Args:
        config: What config.json says.
        source: The folder that `tower_source` found.

    Raises:
        ValueError: If it is no CLIP, the only tower that the original has, or not known.
    """
    if source is None:
        name = config["mm_vision_tower"]
        if Path(str(name)).name != DEFAULT_TOWER:
            raise ValueError(
                f"mm_vision_tower is {name!r}, and its configuration is not in the folder: name a folder that has it "
                "with --vision-tower"
            )
        values: dict[str, Any] = dict(DEFAULT_VISION_CONFIG)
        return AutoConfig.for_model(values.pop("model_type"), **values)
    path = source / "config.json"
    stated = read_original_config(path)
    if stated.get("model_type") == "clip":
        stated = {"model_type": "clip_vision_model", **stated.get("vision_config", {})}
    if stated.get("model_type") != "clip_vision_model":
        raise ValueError(
            f"{path} has the model_type {stated.get('model_type')!r}, but towers of the original are "
            "'clip_vision_model'"
        )
    tower = AutoConfig.for_model(stated.pop("model_type"), **stated)
    if tower.image_size % tower.patch_size:
        raise ValueError(f"{path} has patches of {tower.patch_size} pixels, which do not fill {tower.image_size}")
    return tower


def read_normalisation(source: Path | None, tower: PreTrainedConfig) -> dict[str, Any]:
    """Returns mean and deviation of the pixels' channels: those of the tower's image processor, or CLIP's.

    Raises:
        ValueError: If the image processor does something else to tiles than to normalise them.
    """
    if source is None or not (path := source / "preprocessor_config.json").is_file():
        return {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
    stated = read_original_config(path)
    refused = [
        f"{name} is {stated.get(name)!r}, and only {carried!r} is converted"
        for name, carried in PREPROCESSING.items()
        if stated.get(name, carried) != carried
    ]
    side = tower.image_size
    # a number alone is how old releases of Transformers saved it
    views = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    refused += [
        f"{name} is {stated[name]!r}, but the tower's views have {side} pixels a side"
        for name, view in views.items()
        if stated.get(name, side) not in (side, view)
    ]
    if refused:
        raise ValueError(f"the image processor in {path} cannot be carried over: {'; '.join(refused)}")
    clip = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
    return {name: stated.get(name, default) for name, default in clip.items()}

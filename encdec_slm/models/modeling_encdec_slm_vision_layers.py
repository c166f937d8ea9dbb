"""What an image passes on its way to the encoder: tower, pixel shuffle, projector, tiles, resampling, pooling."""

import inspect
from os import PathLike
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel

from .configuration_encdec_slm_vision import EncDecSLMVisionEncoderConfig
from .image_tokens_encdec_slm import ImageGeometry, ImageLayout, image_layout


def load_tower(name: str | PathLike[str]) -> PreTrainedModel:
    """Loads a vision model, of a checkpoint of two towers (CLIP, SigLIP) that for images."""
    config = AutoConfig.from_pretrained(name)
    return AutoModel.from_pretrained(name, config=config.vision_config if hasattr(config, "vision_config") else config)


@torch.no_grad()
def measure_tower(tower: PreTrainedModel, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an encoder's configuration that its tower's does not have, from a view of zeros.

    Args:
        tower: The tower.
        fields: What is known; `image_size` must be, if the tower has none of its own.

    Raises:
        ValueError: If the tower reads something else than square views, or their size is not known.
    """
    arguments = tower_arguments(tower)
    trained_on = getattr(tower.config, "pretrained_cfg", {}).get("input_size", [None])
    size = fields.get("image_size", getattr(tower.config, "image_size", trained_on[-1]))
    if size is None:
        raise ValueError(
            f"the configuration of a {tower.config.model_type} tower does not say how large its views are: pass "
            "image_size"
        )
    layer = fields.get("vision_feature_layer", EncDecSLMVisionEncoderConfig.vision_feature_layer)
    view = torch.zeros(1, 3, size, size, device=tower.device, dtype=tower.dtype)
    states = tower(view, output_hidden_states=True, **arguments).hidden_states[layer]
    if states.dim() == 4:
        measured = {"patches_per_side": states.shape[-1], "vision_hidden_size": states.shape[1]}
    else:
        # what stands before the patches is less than another row and column of them
        measured = {"patches_per_side": int(states.shape[1] ** 0.5), "vision_hidden_size": states.shape[-1]}
    return {"image_size": size, **measured}


def tower_arguments(tower: PreTrainedModel) -> dict[str, Any]:
    """Returns what a tower wants to be told beside `pixel_values`.

    Raises:
        ValueError: If it does not read them, or needs more than the pixels of square views.
    """
    if hasattr(tower.config, "vision_config"):
        raise ValueError(
            f"a model of type {tower.config.model_type} is more than a tower: pass its vision_model, or the name of "
            "its checkpoint, of which the vision half is taken"
        )
    parameters = inspect.signature(tower.forward).parameters
    if "pixel_values" not in parameters:
        raise ValueError(f"a model of type {tower.config.model_type} reads no pixel_values: choose a vision tower")
    needed = {name for name, value in parameters.items() if value.default is value.empty}
    needed -= {"pixel_values", "kwargs"}
    if needed:
        raise ValueError(
            f"a {tower.config.model_type} tower needs {' and '.join(sorted(needed))}, but of a view there are "
            "pixel_values alone: choose a tower of fixed resolution"
        )
    # views of another size than it was trained on, where it does not see to that itself
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}


def image_layouts(
    pixel_values: torch.Tensor, image_sizes: torch.Tensor | None, geometry: ImageGeometry
) -> list[ImageLayout]:
    """Returns the layout of every image.

    Raises:
        ValueError: If the views are not those of such a geometry.
    """
    # CODEPATH: checkpoints without tiles, which need no sizes
    if not geometry.grid_pinpoints:
        if pixel_values.dim() != 4:
            raise ValueError(
                f"pixel_values have shape {tuple(pixel_values.shape)}, but without image_grid_pinpoints an image is "
                "one view: use the checkpoint's processor"
            )
        return [image_layout(geometry.image_size, geometry.image_size, geometry)] * len(pixel_values)
    if pixel_values.dim() != 5 or image_sizes is None or len(image_sizes) != len(pixel_values):
        raise ValueError(
            f"pixel_values have shape {tuple(pixel_values.shape)} and image_sizes "
            f"{None if image_sizes is None else tuple(image_sizes.shape)}: the views of every image and its height "
            "and width are needed, as the checkpoint's processor gives them"
        )
    layouts = [image_layout(height, width, geometry) for height, width in image_sizes.tolist()]
    most = 1 + max(layout.num_tiles for layout in layouts)
    if pixel_values.shape[1] < most:
        raise ValueError(
            f"pixel_values have {pixel_values.shape[1]} views of an image, but image_grid_pinpoints ask for {most}: "
            "give processor and model the same pinpoints"
        )
    return layouts


class EncDecSLMVisionProjector(nn.Module):
    """Two projections around an activation, from the width of the tower's states to that of the encoder's."""

    def __init__(self, config: EncDecSLMVisionEncoderConfig) -> None:
        super().__init__()
        bias = config.multimodal_projector_bias
        joined_size = config.vision_hidden_size * config.pixel_shuffle_factor**2
        self.linear_1 = nn.Linear(joined_size, config.hidden_size, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size, bias=bias)

    def forward(self, image_states: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(image_states)))


def split_states(states: torch.Tensor, kept: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits a tower's hidden states into those before its patches and those of the patches.

    Args:
        states: Shape `(views, tokens, channels)`, or `(views, channels, height, width)` of a feature map.
        kept: How many of those before the patches are wanted.
        side: Patches along the edge of a view.

    Returns:
        Shapes `(views, kept, channels)` and `(views, side * side, channels)`.

    Raises:
        ValueError: If there are fewer states than that, or the feature map has another side.
    """
    # CODEPATH: timm models and convolutional towers give maps, vision transformers of the library sequences
    if states.dim() == 4:
        if states.shape[-2:] != (side, side):
            raise ValueError(
                f"patches_per_side is {side}, but the tower gives a map of {tuple(states.shape[-2:])}: choose another "
                "vision_feature_layer or image_size, or state the map's side"
            )
        states = states.flatten(2).transpose(1, 2)
    if states.shape[1] < kept + side * side:
        raise ValueError(
            f"the tower gives {states.shape[1]} states for a view, fewer than kept_prefix_tokens ({kept}) and the "
            f"square of patches_per_side ({side}): state what it has"
        )
    return states[:, :kept], states[:, states.shape[1] - side * side :]


def pixel_shuffle(patches: torch.Tensor, factor: int) -> torch.Tensor:
    """Joins squares of `factor` times `factor` patches to one: `(views, side², channels)`, with fewer, wider ones."""
    views, length, channels = patches.shape
    side = int(length**0.5) // factor
    squares = patches.view(views, side, factor, side, factor, channels).transpose(2, 3)
    return squares.reshape(views, side * side, factor * factor * channels)


def resample(grid: torch.Tensor, rows: int, columns: int, compression: str) -> torch.Tensor:
    """Returns a grid of tokens, shape `(height, width, hidden)`, of another height and width."""
    if grid.shape[:2] == (rows, columns) or not grid.numel():
        return grid[:rows, :columns]
    channels_first = grid.permute(2, 0, 1)[None]
    if compression == "average_pool":
        resampled = nn.functional.adaptive_avg_pool2d(channels_first, (rows, columns))
    else:
        resampled = nn.functional.interpolate(channels_first, (rows, columns), mode="bilinear")
    return resampled[0].permute(1, 2, 0)


def join_tiles(tiles: torch.Tensor, layout: ImageLayout) -> torch.Tensor:
    """Lays tiles, shape `(tiles, side, side, hidden)`, beside each other and cuts off what shows padding."""
    side, hidden = tiles.shape[1], tiles.shape[-1]
    tiles = tiles.view(layout.tile_rows, layout.tile_columns, side, side, hidden).transpose(1, 2)
    grid = tiles.reshape(layout.tile_rows * side, layout.tile_columns * side, hidden)
    return grid[layout.crop_top : len(grid) - layout.crop_top, layout.crop_left : grid.shape[1] - layout.crop_left]


def arrange(
    prefix: torch.Tensor, patches: torch.Tensor, layout: ImageLayout, newline: torch.Tensor, compression: str
) -> torch.Tensor:
    """Puts the tokens of one image in the order in which the encoder reads them.

    Args:
        prefix: Tokens before the patches of every view, shape `(views, kept, hidden)`.
        patches: Tokens of every view, shape `(views, side, side, hidden)`.
        layout: What the image is cut into.
        newline: Token at the end of every row of the grid, shape `(hidden,)`.
        compression: How a grid is resampled.

    Returns:
        Shape `(tokens, hidden)`: prefix, thumbnail and grid, row by row.
    """
    parts = [prefix[0]]
    if layout.thumbnail_side:
        thumbnail, patches = patches[0], patches[1:]
        parts.append(resample(thumbnail, layout.thumbnail_side, layout.thumbnail_side, compression).flatten(0, 1))
    if layout.num_tiles:
        grid = resample(join_tiles(patches, layout), layout.rows, layout.columns, compression)
        newlines = newline.to(grid.dtype).expand(layout.rows, 1, -1)
        parts.append(torch.cat((grid, newlines), dim=1).flatten(0, 1))
    return torch.cat(parts)


def pool_image_states(
    states: torch.Tensor, is_image: torch.Tensor, attention_mask: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages the states of image tokens that follow each other, `size` at a time, and leaves padding out.

    Args:
        states: Shape `(batch, length, hidden)`.
        is_image: Which tokens are of an image, shape `(batch, length)`.
        attention_mask: Which are no padding, of the same shape.
        size: How many become one; the last of a run may be of fewer.

    Returns:
        The states, shape `(batch, fewer, hidden)`, and their attention mask.
    """
    visible = attention_mask.bool()
    is_image = is_image & visible
    index = torch.arange(states.shape[1], device=states.device).expand_as(is_image)
    # the last token before the run: from there its tokens are counted
    before_run = torch.where(is_image, -1, index).cummax(dim=1).values
    continues = is_image & ((index - before_run - 1) % size != 0)
    group = (visible & ~continues).long().cumsum(dim=1) - 1
    counts = group[:, -1] + 1
    length = int(counts.max())
    # padding goes to a group of its own, which is cut off
    group = torch.where(visible, group, length)
    sums = states.new_zeros(states.shape[0], length + 1, states.shape[2])
    sums = sums.scatter_add(1, group[..., None].expand_as(states), states)
    members = states.new_zeros(states.shape[0], length + 1).scatter_add(1, group, torch.ones_like(states[..., 0]))
    pooled = sums[:, :-1] / members[:, :-1, None].clamp(min=1)
    mask = torch.arange(length, device=states.device) < counts[:, None]
    return pooled, mask.to(attention_mask.dtype)


def mask_of_states(encoder_outputs: Any, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the mask of encoder states, which is not that of the input where states were averaged.

    Raises:
        ValueError: If there are masks for more or fewer states than there are.
    """
    if isinstance(encoder_outputs, ModelOutput) and encoder_outputs.get("attention_mask") is not None:
        return encoder_outputs["attention_mask"]
    length = encoder_outputs[0].shape[1]
    if attention_mask is not None and attention_mask.shape[1] != length:
        raise ValueError(
            f"attention_mask is for {attention_mask.shape[1]} tokens, but there are {length} encoder states: with "
            "image_state_pooling pass the encoder's output whole, since it has the mask of its states"
        )
    return attention_mask

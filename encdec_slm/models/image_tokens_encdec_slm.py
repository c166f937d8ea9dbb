"""How an image becomes tokens: which tiles it is cut into, and how many tokens it takes. Arithmetic on sizes alone.

The processor counts with it before a pixel is touched, the model cuts and resamples by it: one definition for both.
An image is seen as a square thumbnail and as a grid of square tiles, into which it is scaled and padded; the padding
is cut off again, every row of the grid ends with a newline token, and a cap or a budget shrinks what is too much
(LLaVA-OneVision, arXiv 2408.03326; the budget is ours).
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import sqrt

from transformers.image_processing_utils import select_best_resolution


# the cap of `max_tiles` leaves grids alone whose sides are up to a tenth over it
CAP_SLACK = 1.1
# images are scaled to such sizes: without a bound a configuration could ask for all memory there is
MOST_PIXELS = 2**27


@dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """What of a configuration decides how many tokens an image takes.

    Attributes:
        image_size: Edge of a view in pixels.
        patches_per_side: Tokens along the edge of a view, after pixel shuffle.
        grid_pinpoints: Sizes (height, width) in pixels, multiples of `image_size`, that an image may be scaled to.
            Without any, an image is one square view.
        thumbnail_for_one_tile: Whether an image that fits one tile is seen as a thumbnail too.
        kept_prefix_tokens: Tokens of the tower, such as CLS, that stand before the patches of the first view.
        max_tiles: The grid is resampled to the tokens of so many tiles, if it has clearly more.
        max_image_tokens: Most tokens of an image, all included.

    Raises:
        ValueError: If a number is too small, or a pinpoint is no grid of whole views, or a size is beyond all use.
    """

    image_size: int
    patches_per_side: int
    grid_pinpoints: tuple[tuple[int, int], ...] = ()
    thumbnail_for_one_tile: bool = False
    kept_prefix_tokens: int = 0
    max_tiles: int | None = None
    max_image_tokens: int | None = None

    def __post_init__(self) -> None:
        # one token of the thumbnail, one of the grid and its newline
        fewest = self.kept_prefix_tokens + 3
        for name, least in {
            "image_size": 1,
            "patches_per_side": 1,
            "max_tiles": 1,
            "max_image_tokens": fewest,
        }.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least {least}")
        for pinpoint in self.grid_pinpoints:
            if min(pinpoint) < 1 or any(length % self.image_size for length in pinpoint):
                raise ValueError(
                    f"the sides of every grid pinpoint must be multiples of image_size ({self.image_size}), which "
                    f"those of {list(pinpoint)} are not"
                )
        for height, width in ((self.image_size, self.image_size), *self.grid_pinpoints):
            if height * width > MOST_PIXELS:
                raise ValueError(
                    f"an image would be scaled to {height:,} times {width:,} pixels, more than {MOST_PIXELS:,}: "
                    "choose a smaller image_size, or leave that grid pinpoint out"
                )


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """The views and tokens of one image, in the order in which they are read.

    Attributes:
        tile_rows: Tiles along the height; 0 where there is one view only.
        tile_columns: Tiles along the width.
        crop_top: Patches of padding, cut off from the top and from the bottom of the grid.
        crop_left: The same of its left and its right.
        prefix: Tokens before all others.
        thumbnail_side: Tokens along the edge of the thumbnail; 0 without one.
        rows: Tokens along the height of the grid, after resampling.
        columns: Tokens along its width, without the newline.
    """

    tile_rows: int
    tile_columns: int
    crop_top: int
    crop_left: int
    prefix: int
    thumbnail_side: int
    rows: int
    columns: int

    @property
    def num_tiles(self) -> int:
        """Number of tiles of the grid."""
        return self.tile_rows * self.tile_columns

    @property
    def views(self) -> slice:
        """Which views are read, of the thumbnail and the tiles that the image processor gives."""
        return slice(0 if self.thumbnail_side else 1, 1 + self.num_tiles)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the encoder's input."""
        return self.prefix + _num_tokens((self.thumbnail_side, self.rows, self.columns))


def image_layout(height: int, width: int, geometry: ImageGeometry) -> ImageLayout:
    """Returns how an image of `height` times `width` pixels is cut and what is left of it.

    Raises:
        ValueError: If the image has no pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} times {width} pixels shows nothing: leave it and its marker out")
    if not geometry.grid_pinpoints:
        return _cut((0, 0), (0, 0), geometry)
    best_height, best_width = select_best_resolution((height, width), geometry.grid_pinpoints)
    tiles = (best_height // geometry.image_size, best_width // geometry.image_size)
    side = geometry.patches_per_side
    return _cut(tiles, _padding(height, width, tiles[0] * side, tiles[1] * side), geometry)


def count_image_tokens(sizes: Iterable[tuple[int, int]], geometry: ImageGeometry) -> list[int]:
    """Returns the number of tokens of images of these sizes (height, width)."""
    return [image_layout(height, width, geometry).num_tokens for height, width in sizes]


def most_image_tokens(geometry: ImageGeometry) -> int:
    """Returns a number of tokens that no image exceeds, and that is reached by one that fills its grid."""
    layouts = [] if geometry.grid_pinpoints else [_cut((0, 0), (0, 0), geometry)]
    for height, width in geometry.grid_pinpoints:
        tiles = (height // geometry.image_size, width // geometry.image_size)
        # padding is above and below or on the left and on the right, not both
        half_height, half_width = (length * geometry.patches_per_side // 2 for length in tiles)
        crops = [*((i, 0) for i in range(half_height + 1)), *((0, i) for i in range(1, half_width + 1))]
        layouts += [_cut(tiles, crop, geometry) for crop in crops]
    return max(layout.num_tokens for layout in layouts)


def _cut(tiles: tuple[int, int], crop: tuple[int, int], geometry: ImageGeometry) -> ImageLayout:
    """Returns the layout of a grid of tiles from whose sides patches of padding are cut off."""
    side = geometry.patches_per_side
    rows, columns = tiles[0] * side - 2 * crop[0], tiles[1] * side - 2 * crop[1]
    # a strip can be so thin that nothing of it is left in the grid
    has_thumbnail = geometry.thumbnail_for_one_tile or tiles != (1, 1) or not rows * columns
    sides = (side if has_thumbnail else 0, *_capped(rows, columns, geometry))
    budget = geometry.max_image_tokens
    thumbnail_side, rows, columns = sides if budget is None else _fitted(sides, budget - geometry.kept_prefix_tokens)
    return ImageLayout(
        tile_rows=tiles[0],
        tile_columns=tiles[1],
        crop_top=crop[0],
        crop_left=crop[1],
        prefix=geometry.kept_prefix_tokens,
        thumbnail_side=thumbnail_side,
        rows=rows,
        columns=columns,
    )


def _padding(height: int, width: int, grid_height: int, grid_width: int) -> tuple[int, int]:
    """Returns the patches of padding above and left of an image that was scaled into a grid of patches."""
    # a product just below a whole number is cut off as in the original, whose checkpoints expect so many tokens;
    # LLaVA-OneVision rounds it to seven digits first, which for a few sizes is another number
    if width / height > grid_width / grid_height:
        return (grid_height - int(height * (grid_width / width))) // 2, 0
    return 0, (grid_width - int(width * (grid_height / height))) // 2


def _capped(rows: int, columns: int, geometry: ImageGeometry) -> tuple[int, int]:
    """Returns the sides of the grid after the cap of `max_tiles`."""
    if geometry.max_tiles is None:
        return rows, columns
    ratio = sqrt(rows * columns / (geometry.max_tiles * geometry.patches_per_side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > CAP_SLACK else (rows, columns)


@lru_cache(maxsize=4096)
def _fitted(sides: tuple[int, int, int], room: int) -> tuple[int, int, int]:
    """Returns the sides of thumbnail and grid, divided by the smallest ratio with which both fit the room."""
    if _num_tokens(sides) <= room:
        return sides
    # the sides change at these ratios only; fractions, since a side over its quotient must give it back exactly
    ratios = sorted({Fraction(length, quotient) for length in sides for quotient in range(1, length + 1)})
    first = bisect_left(ratios, True, key=lambda ratio: _num_tokens(_divided(sides, ratio)) <= room)
    return _divided(sides, ratios[first])


def _divided(sides: tuple[int, int, int], ratio: Fraction) -> tuple[int, int, int]:
    side, rows, columns = (max(1, length // ratio) if length else 0 for length in sides)
    return side, rows, columns


def _num_tokens(sides: tuple[int, int, int]) -> int:
    side, rows, columns = sides
    return side**2 + rows * (columns + 1)

"""How many tokens an image takes: against the library's own count, under a budget, and at the edges."""

import random
from dataclasses import replace

import pytest
from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor

from encdec_slm.models.configuration_encdec_slm_vision import DEFAULT_GRIDS
from encdec_slm.models.image_tokens_encdec_slm import (
    ImageGeometry,
    count_image_tokens,
    image_layout,
    most_image_tokens,
)


# the released checkpoint: CLIP ViT-L/14 at 336 pixels, its pinpoints, at most three tiles' worth
ORIGINAL = ImageGeometry(
    image_size=336,
    patches_per_side=24,
    grid_pinpoints=((336, 336), (672, 672), (1008, 672), (672, 1008)),
    thumbnail_for_one_tile=True,
    max_tiles=3,
)
OURS = ImageGeometry(
    image_size=336,
    patches_per_side=24,
    grid_pinpoints=tuple((336 * rows, 336 * columns) for rows, columns in DEFAULT_GRIDS),
)
ONE_VIEW = ImageGeometry(image_size=336, patches_per_side=24)
BUDGETS = (4, 31, 256, 576, 744, 2304)


def random_sizes(count, seed=0):
    """Heights and widths from one pixel to eight thousand, small ones as often as large ones."""
    numbers = random.Random(seed)
    return [(int(2 ** numbers.uniform(0, 13)), int(2 ** numbers.uniform(0, 13))) for _ in range(count)]


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    # what the original's own code gives
    [
        (336, 336, 1176),
        (672, 672, 2298),
        (1008, 1008, 2298),
        (672, 1008, 2259),
        (1008, 672, 2276),
        (480, 640, 2340),
        (1080, 1920, 2256),
        (336, 1344, 1890),
        (300, 3000, 1160),
        (3481, 1393, 2664),
        (29, 3111, 576),
        # where rounding before the cut would give another number
        (198, 352, 1850),
        (1263, 3368, 2474),
    ],
)
def test_counts_of_the_original(height, width, tokens):
    assert image_layout(height, width, ORIGINAL).num_tokens == tokens


@pytest.mark.parametrize("max_tiles", [1, 3, 9])
def test_library_counts_the_same(max_tiles, tiny_tokenizer):
    geometry = replace(ORIGINAL, max_tiles=max_tiles)
    processor = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    processor.num_image_tokens = 24**2
    processor.vision_aspect_ratio = f"anyres_max_{max_tiles}"
    pinpoints = [list(pinpoint) for pinpoint in geometry.grid_pinpoints]
    processor.image_processor = LlavaOnevisionImageProcessor(image_grid_pinpoints=pinpoints)
    sizes = random_sizes(3000)
    expected = [processor._get_number_of_features(height, width, 336, 336) for height, width in sizes]
    assert count_image_tokens(sizes, geometry) == expected


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("geometry", [OURS, ORIGINAL, ONE_VIEW, replace(OURS, kept_prefix_tokens=1)])
def test_budget_is_met_and_not_wasted(geometry, budget):
    sizes = random_sizes(500)
    limited = replace(geometry, max_image_tokens=budget)
    for size, tokens in zip(sizes, count_image_tokens(sizes, geometry), strict=True):
        layout = image_layout(*size, limited)
        assert 1 <= layout.num_tokens <= budget
        if tokens <= budget:
            assert layout == image_layout(*size, geometry)
        else:
            # one more along every side would be too much
            sides = (layout.thumbnail_side, layout.rows, layout.columns)
            thumbnail, rows, columns = (side + (side > 0) for side in sides)
            assert layout.prefix + thumbnail**2 + rows * (columns + 1) > budget


def test_budget_shrinks_both_views_alike():
    whole, half = (image_layout(1008, 1008, replace(OURS, max_image_tokens=budget)) for budget in (None, 1500))
    assert (whole.thumbnail_side, whole.rows, whole.columns) == (24, 72, 72)
    ratios = [24 / half.thumbnail_side, 72 / half.rows, 72 / half.columns]
    assert max(ratios) < 1.1 * min(ratios)


@pytest.mark.parametrize("geometry", [OURS, ORIGINAL, ONE_VIEW, replace(OURS, max_image_tokens=744)])
def test_no_image_takes_more_than_the_most(geometry):
    counts = count_image_tokens(
        random_sizes(2000) + [(336 * i, 336 * j) for i in (1, 2, 3) for j in (1, 2, 3)], geometry
    )
    assert max(counts) <= most_image_tokens(geometry)
    assert max(counts) > 0.95 * most_image_tokens(geometry)


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (1008, 1008, (3, 3)),
        (4000, 4000, (3, 3)),
        (1000, 670, (3, 2)),
        (600, 1000, (2, 3)),
        (300, 1300, (1, 4)),
        (1344, 200, (4, 1)),
        (672, 672, (2, 2)),
        (336, 336, (1, 1)),
        (20, 20, (1, 1)),
        (200, 600, (1, 2)),
    ],
)
def test_default_grids_keep_pages_and_strips_sharp_and_enlarge_nothing_needlessly(height, width, grid):
    layout = image_layout(height, width, OURS)
    assert (layout.tile_rows, layout.tile_columns) == grid


def test_grid_is_the_smallest_that_loses_no_pixel():
    for height, width in random_sizes(500):
        layout = image_layout(height, width, OURS)
        fits = [(h, w) for h, w in OURS.grid_pinpoints if h >= height and w >= width]
        if fits:
            assert layout.num_tiles * 336**2 == min(h * w for h, w in fits)


def test_small_image_is_one_tile_or_a_thumbnail_too():
    once = image_layout(112, 336, OURS)
    assert (once.thumbnail_side, once.rows, once.columns, once.num_tokens) == (0, 8, 24, 8 * 25)
    assert once.views == slice(1, 2)
    twice = image_layout(112, 336, replace(OURS, thumbnail_for_one_tile=True))
    assert twice.num_tokens == 24**2 + 8 * 25
    assert twice.views == slice(0, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (30_000, 30_000)])
@pytest.mark.parametrize("geometry", [OURS, ORIGINAL, ONE_VIEW, replace(OURS, max_image_tokens=4)])
def test_extreme_sizes_have_tokens(size, geometry):
    assert 1 <= image_layout(*size, geometry).num_tokens <= most_image_tokens(geometry)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 3)])
def test_images_without_pixels_are_refused(size):
    with pytest.raises(ValueError, match="shows nothing"):
        image_layout(*size, OURS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "image_size .0."),
        ({"patches_per_side": 0}, "patches_per_side .0."),
        ({"max_tiles": 0}, "max_tiles .0."),
        ({"max_image_tokens": 2}, "max_image_tokens .2. must be at least 3"),
        ({"max_image_tokens": 3, "kept_prefix_tokens": 1}, "max_image_tokens .3. must be at least 4"),
        ({"grid_pinpoints": ((336, 500),)}, r"multiples of image_size .336..*\[336, 500\]"),
        ({"grid_pinpoints": ((0, 336),)}, "multiples of image_size"),
        ({"grid_pinpoints": ((336, 336), (336_000, 336_000))}, "scaled to 336,000 times 336,000 pixels"),
        ({"image_size": 1_000_000, "grid_pinpoints": ()}, "scaled to 1,000,000 times 1,000,000 pixels"),
    ],
)
def test_impossible_geometry_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(OURS, **changes)

"""Images of rows: opened when a batch is made, and joined when a model reads them.

A processor is asked about one row at a time. What it makes of the images is a few tensors whose first dimension counts
whatever it likes: images (LLaVA), rows of images (SmolVLM), or patches of all images (Qwen2-VL). So rows are kept
apart, and any of them can be read without the others.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel
from transformers.image_utils import load_image


# a column of the dataset: an image, a list of them, or None
IMAGES = "images"
# longer texts are Base64
LONGEST_PATH = 4096


@dataclass(frozen=True, eq=False)
class RowImages:
    """What a processor makes of the images of each row of a batch.

    It is no tensor and no collection of any, so that nothing that moves, cuts or gathers batches looks into it: the
    tensors stay where they are until a model reads them.

    Args:
        rows: For each row of the batch tensors by name, none for a row without images.
    """

    rows: tuple[Mapping[str, torch.Tensor], ...]

    def __getitem__(self, rows: torch.Tensor) -> "RowImages":
        """Returns the images of some rows.

        Args:
            rows: Which, of shape (rows,).
        """
        return RowImages(tuple(self.rows[row] for row in rows.tolist()))

    def joined(self, model: PreTrainedModel, device: torch.device | None = None) -> dict[str, torch.Tensor]:
        """Returns the images of all rows as a model takes them: none if no row has any.

        They are one below the other along the first dimension. Where they differ in another one, such as in the
        number of tiles or in height and width, they are padded with zeros, as processors do in a batch.

        Args:
            model: Who reads them, in its own dtype.
            device: Where; that of the model if not given.
        """
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {
            name: _in(_joined([row[name] for row in self.rows if name in row]), model.dtype, device or model.device)
            for name in names
        }

    def digests(self) -> list[str]:
        """Returns a hash of the images of each row, the same in every process; empty for a row without images."""
        return [_digest(row) if row else "" for row in self.rows]

    def pin_memory(self) -> Self:
        """Returns itself with all tensors in pinned memory; see `DataLoader`."""
        return type(self)(tuple({name: value.pin_memory() for name, value in row.items()} for row in self.rows))


def count_images(value: Any) -> int:
    """Returns how many images a row has in its column."""
    if value is None:
        return 0
    return len(value) if isinstance(value, list | tuple) else 1


def open_images(value: Any) -> list[Any]:
    """Returns the images of a row, of Pillow where they are in files.

    Args:
        value: An image, a list of them or None. An image is one of Pillow's, an array, a tensor, a path, a URL,
            Base64, or what `datasets` has of one that is not decoded (`bytes` or `path`).

    Raises:
        ValueError: If one cannot be read.
    """
    images = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [_opened(image) for image in images]


def image_counts(dataset: Any) -> list[int]:
    """Returns how many images each row of a map-style dataset has, without opening or copying one."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    counts: list[int] = []
    for table in dataset.select_columns([IMAGES]).with_format("arrow").iter(batch_size=1000):
        column = table[IMAGES]
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        numbers = pc.list_value_length(column) if is_list else pc.is_valid(column)
        counts += [int(number or 0) for number in numbers.to_pylist()]
    return counts


def _opened(image: Any) -> Any:
    from PIL import Image, ImageOps

    source, name = image, str(image)[:200]
    if isinstance(image, Mapping):
        content, source = image.get("bytes"), image.get("path")
        name = str(source or "an image in the dataset")
        source = source if content is None else BytesIO(content)
    elif not isinstance(image, str | PathLike):
        return image
    try:
        if isinstance(source, str) and not _is_file(source):
            return load_image(source)
        with Image.open(source) as opened:
            return ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def _is_file(name: str) -> bool:
    return len(name) <= LONGEST_PATH and Path(name).is_file()


def _joined(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns tensors one below the other, padded with zeros in the other dimensions to the largest."""
    shape = [max(lengths) for lengths in zip(*(value.shape[1:] for value in values), strict=True)]
    joined = values[0].new_zeros(sum(map(len, values)), *shape)
    start = 0
    for value in values:
        joined[(slice(start, start + len(value)), *map(slice, value.shape[1:]))] = value
        start += len(value)
    return joined


def _in(value: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _digest(row: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(row.items(), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

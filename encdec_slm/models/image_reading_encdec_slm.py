"""Images from wherever they come to what an image processor reads without losing anything of them unseen.

Paths, URLs and Base64 are opened as they are: the library's own way makes them RGB at once, which clips 16 bits and
shows what a transparent image hides. Image processors put transparent images on white.
"""

import os
from base64 import decodebytes
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from urllib.request import Request, urlopen

from transformers.image_utils import is_pil_image, is_valid_image
from transformers.utils.hub import http_user_agent


# of a name a message shows no more than its ends: Base64 can be long
SHOWN_CHARACTERS = 40


def flattened(images: Any) -> Iterator[Any]:
    """Yields the images of nested lists and of arrays of several, in order; `None` is a list without any."""
    if isinstance(images, list | tuple) or (hasattr(images, "ndim") and images.ndim > 3):
        for image in images:
            yield from flattened(image)
    elif images is not None:
        yield images


def readable(image: Any, index: int) -> Any:
    """Returns an image that has been read, with eight bits a channel.

    Args:
        image: One of Pillow's, an array, a tensor, a path, a URL or Base64. Of an animation the first frame is taken.
        index: Its place among the images, for messages.

    Raises:
        ValueError: If it cannot be read, has no pixel, or has values that eight bits cannot hold.
    """
    if isinstance(image, str | os.PathLike):
        image = open_image(os.fspath(image), index)
    if is_pil_image(image):
        return _checked_picture(image, index)
    if not is_valid_image(image):
        raise ValueError(
            f"image {index} is of the type {type(image).__name__}: give one of Pillow's, an array, a tensor, a path, "
            "a URL or Base64"
        )
    if 0 in image.shape:
        raise ValueError(f"image {index} has the shape {tuple(image.shape)} and shows nothing: leave it out")
    if "float" not in str(image.dtype) and image.max() > 255:
        raise ValueError(
            f"image {index} has values of up to {image.max()}, but eight bits a channel are read: scale them to 0 to "
            "255"
        )
    # without a channel it is grey
    return image[None] if image.ndim == 2 else image


def open_image(source: str, index: int) -> Any:
    """Opens a path, a URL or Base64 with Pillow, and turns what a camera marked as lying on its side.

    Raises:
        ValueError: If there is no such image, or it cannot be read.
    """
    from PIL import Image, ImageOps

    name = source
    if len(source) > 2 * SHOWN_CHARACTERS:
        name = f"{source[:SHOWN_CHARACTERS]}...{source[-SHOWN_CHARACTERS:]}"
    try:
        with Image.open(_content(source)) as image:
            return ImageOps.exif_transpose(image)
    # what the formats raise for broken files is not settled: `struct.error`, `IndexError`, `zlib.error` and more
    except Exception as error:
        raise ValueError(
            f"image {index} ({name!r}) is neither a path, a URL nor Base64 of an image that can be read: {error}"
        ) from error


def _content(source: str) -> str | BytesIO:
    if source.startswith(("http://", "https://")):
        with urlopen(Request(source, headers={"User-Agent": http_user_agent()})) as response:
            return BytesIO(response.read())
    # false for what is too long to be a name too
    if os.access(source, os.F_OK):
        return source
    return BytesIO(decodebytes(source.split(",", 1)[-1].encode()))


def _checked_picture(image: Any, index: int) -> Any:
    if 0 in image.size:
        raise ValueError(f"image {index} is {image.width} times {image.height} pixels and shows nothing: leave it out")
    try:
        image.load()
    except Exception as error:
        raise ValueError(f"image {index} cannot be read: {error}") from error
    return with_eight_bits(image, index)


def with_eight_bits(image: Any, index: int) -> Any:
    """Returns an image of Pillow's that is not clipped when it becomes RGB: 16 bits are scaled.

    Raises:
        ValueError: If its range of values is not known.
    """
    if image.mode.startswith("I;16"):
        # Pillow cuts off what is behind the point
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.mode in {"I", "F"}:
        raise ValueError(
            f"image {index} has Pillow's mode {image.mode!r}, whose values have no fixed range: scale them to 0 to "
            "255 and convert it to 'L'"
        )
    return image

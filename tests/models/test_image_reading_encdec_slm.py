"""Images of all kinds and states: read as they are seen, or refused with a reason."""

import random
from base64 import b64encode
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from encdec_slm.models.image_reading_encdec_slm import flattened, readable


def picture(mode="RGB", size=(7, 5)):
    """A picture of random pixels, width and height as Pillow has them."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)


def rgb(image):
    return np.asarray(image.convert("RGB"))


@contextmanager
def served(folder):
    """The address of a server of the files in a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path == "/moved.png":
                self.send_response(302)
                self.send_header("Location", "/image.png")
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_paths_urls_and_base64_are_the_same_image(tmp_path):
    image, path = picture(size=(70, 50)), tmp_path / "image.png"
    image.save(path)
    text = b64encode(path.read_bytes()).decode()
    # longer than a file's name may be, and longer than a path may be
    assert len(text) > 4096
    small = BytesIO()
    image.convert("1").save(small, "PNG")
    small_text = b64encode(small.getvalue()).decode()
    assert 255 < len(small_text) < 4096
    with served(tmp_path) as address:
        sources = [
            str(path),
            path,
            f"{address}/image.png",
            f"{address}/moved.png",
            text,
            f"data:image/png;base64,{text}",
        ]
        for source in sources:
            assert np.array_equal(readable(source, 0), np.asarray(image))
    assert np.array_equal(readable(small_text, 0), np.asarray(image.convert("1")))


def test_nothing_at_the_address_is_said_so(tmp_path):
    (tmp_path / "page.html").write_text("<html>no image</html>")
    with served(tmp_path) as address:
        with pytest.raises(ValueError, match=r"image 3 \('http://.*/none.png'\) is neither.*404"):
            readable(f"{address}/none.png", 3)
        with pytest.raises(ValueError, match=r"image 3 \('http://.*/page.html'\).*cannot identify"):
            readable(f"{address}/page.html", 3)
    with pytest.raises(ValueError, match=r"image 0 .'http://.*refused"):
        readable(f"{address}/page.html", 0)


@pytest.mark.parametrize("source", ["no.png", "folder", "", "x" * 500])
def test_what_is_no_image_is_said_so(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"image 1 \('.*'\) is neither a path, a URL nor Base64 of an image") as error:
        readable(source, 1)
    assert len(str(error.value)) < 300


def test_transparent_images_lie_on_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.putpixel((1, 2), (10, 20, 30, 255))
    for name in ("image.png", "image.webp", "image.gif"):
        image.save(tmp_path / name, lossless=True)
        read = readable(tmp_path / name, 0)
        # what the library's image processors do with it
        from transformers.image_transforms import convert_to_rgb

        pixels = convert_to_rgb(read, return_numpy=True)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[2, 1].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("mode", "extension"),
    [("CMYK", "jpg"), ("CMYK", "tiff"), ("P", "png"), ("P", "gif"), ("L", "png"), ("LA", "png"), ("1", "png")],
)
def test_colour_spaces(mode, extension, tmp_path):
    image, path = picture(mode), tmp_path / f"image.{extension}"
    image.save(path, quality=100, subsampling=0) if extension == "jpg" else image.save(path)
    read = readable(path, 0)
    expected = rgb(Image.open(path))
    assert np.array_equal(rgb(read), expected)
    # and it looks as it did before it was saved
    assert np.abs(expected.astype(int) - rgb(image)).max() <= (12 if extension == "jpg" else 0)


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_sixteen_bits_are_scaled_and_not_clipped(extension, tmp_path):
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"image.{extension}")
    read = readable(tmp_path / f"image.{extension}", 0)
    assert read.mode == "L"
    assert np.asarray(read).tolist() == [[0, 0, 1, 1], [127, 128, 255, 255]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(mode):
    with pytest.raises(ValueError, match=f"image 2 has Pillow's mode '{mode}', whose values have no fixed range"):
        readable(Image.new(mode, (4, 4)), 2)


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation(extension, tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"image.{extension}", save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(tmp_path / f"image.{extension}").n_frames == 3
    assert rgb(readable(tmp_path / f"image.{extension}", 0))[0, 0].tolist() == [255, 0, 0]


def test_photographs_stand_upright(tmp_path):
    image, exif = picture(size=(8, 4)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "image.png", exif=exif)
    assert readable(tmp_path / "image.png", 0).size == (4, 8)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "webp", "tiff", "bmp", "ico", "jp2", "avif", "ppm", "tga"])
def test_broken_files_are_refused_or_read(extension, tmp_path):
    """Cut off anywhere, or with wrong bytes: whatever Pillow raises, the user learns which image it is."""
    path, numbers = tmp_path / f"image.{extension}", random.Random(0)
    picture(size=(32, 32)).save(path)
    content, refused = path.read_bytes(), []
    cuts = [content[: numbers.randrange(len(content))] for _ in range(20)]
    wrong = [bytearray(content) for _ in range(20)]
    for broken in wrong:
        for _ in range(4):
            broken[numbers.randrange(min(len(content), 200))] = numbers.randrange(256)
    for broken in [*cuts, *wrong, b"", b"\0" * 100]:
        path.write_bytes(broken)
        try:
            assert min(readable(path, 5).size) > 0
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(message.startswith("image 5") for message in refused)


def test_opened_but_truncated_image_is_refused(tmp_path):
    picture(size=(90, 90)).save(tmp_path / "image.png")
    content = (tmp_path / "image.png").read_bytes()
    image = Image.open(BytesIO(content[: len(content) // 2]))
    with pytest.raises(ValueError, match=r"image 4 cannot be read: .*truncated"):
        readable(image, 4)


def test_bombs_are_refused(tmp_path, monkeypatch):
    picture().save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="decompression bomb"):
        readable(tmp_path / "image.png", 0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (0, 5)), "image 6 is 0 times 5 pixels and shows nothing"),
        (np.zeros((5, 0, 3), np.uint8), r"image 6 has the shape .5, 0, 3. and shows nothing"),
        (torch.zeros(3, 0, 5), r"image 6 has the shape .3, 0, 5. and shows nothing"),
        (np.full((2, 2, 3), 300, np.uint16), "image 6 has values of up to 300, but eight bits"),
        (torch.full((3, 2, 2), 300), "image 6 has values of up to 300, but eight bits"),
        (7, "image 6 is of the type int: give one of Pillow's"),
        (b"bytes", "image 6 is of the type bytes: give one of Pillow's"),
        ({"url": "a.png"}, "image 6 is of the type dict: give one of Pillow's"),
    ],
)
def test_what_shows_nothing_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        readable(image, 6)


def test_nested_lists_are_flattened():
    images = [picture(), np.zeros((2, 2, 3)), torch.zeros(3, 2, 2), "a.png"]
    found = list(flattened([[images[0]], [], None, [[images[1]], (images[2],)], images[3]]))
    assert all(a is b for a, b in zip(found, images, strict=True))
    assert [image.shape for image in flattened(np.zeros((2, 4, 5, 3)))] == [(4, 5, 3)] * 2

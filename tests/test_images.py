"""Opening images: real files of every kind, and what must be refused."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import PIL.Image
import pytest
from PIL.Image import Image, Transpose
from tests.models.openclip import CLIP
from tests.models.test_siglip2 import processor
from tests.models.test_siglip2 import tiny as tiny_siglip2

import radapt
from radapt.errors import InputError
from radapt.models import VLM, open_image


@pytest.fixture
def photo() -> Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))


def values(image: Image) -> list[list[int]]:
    """The pixels row by row."""
    assert image.mode == "RGB"
    return [list(each) for row in np.asarray(image).tolist() for each in row]


def saved(image: Image, file: Path, **settings: Any) -> Path:
    image.save(file, **settings)
    return file


def same(one: Image, other: Image) -> bool:
    return one.mode == other.mode == "RGB" and np.array_equal(np.asarray(one), np.asarray(other))


def test_a_path_a_string_and_an_image_give_the_same_and_leave_the_image_alone(photo: Image, tmp_path: Path) -> None:
    file = saved(photo, tmp_path / "a.png")
    for source in (file, str(file), photo):
        assert same(open_image(source), photo)
    before = photo.copy()
    open_image(photo).paste("red", (0, 0, *photo.size))
    assert same(photo, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (7, 5), (201, 2), (200, 1)])
def test_images_of_odd_size_pass(size: tuple[int, int], tmp_path: Path) -> None:
    assert open_image(saved(PIL.Image.new("RGB", size), tmp_path / "a.png")).size == size


UPRIGHT = {
    1: None, 2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_is_applied_once(photo: Image, tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    settings = {"lossless": True} if suffix == "webp" else {}
    file = saved(photo, tmp_path / f"a.{suffix}", exif=exif, **settings)
    turn = UPRIGHT[orientation]
    expected = photo if turn is None else photo.transpose(turn)
    opened = open_image(file)
    assert same(opened, expected)
    assert same(open_image(opened), expected)
    with PIL.Image.open(file) as image:
        assert same(open_image(image), expected)


def test_the_orientation_of_a_jpeg_is_applied(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    red_above_blue = PIL.Image.new("RGB", (32, 64), "red")
    red_above_blue.paste("blue", (0, 32, 32, 64))
    opened = open_image(saved(red_above_blue, tmp_path / "a.jpg", exif=exif, quality=95))
    assert opened.size == (64, 32)
    blue, red = opened.getpixel((5, 16)), opened.getpixel((58, 16))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > 200 > red[2]
    assert blue[2] > 200 > blue[0]


def test_unreadable_exif_is_said_and_does_no_further_harm(photo: Image, tmp_path: Path) -> None:
    file = saved(photo, tmp_path / "a.png", exif=b"Exif\x00\x00no tiff header at all")
    with pytest.warns(UserWarning, match=r"EXIF data of '.*a.png' cannot be read; its orientation is not applied"):
        assert same(open_image(file), photo)


def test_of_several_frames_the_first_is_taken_and_said(tmp_path: Path) -> None:
    frames = [PIL.Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for suffix in ("gif", "png", "tiff"):
        file = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.warns(UserWarning, match=rf"a.{suffix}' has 3 frames; frame 1 is taken"):
            assert same(open_image(file), frames[0])
    with PIL.Image.open(tmp_path / "a.gif") as image:
        image.seek(2)
        with pytest.warns(UserWarning, match="the image has 3 frames; frame 3 is taken"):
            assert same(open_image(image), frames[2])


def test_an_image_of_a_phone_with_a_preview_is_one_image(photo: Image, tmp_path: Path) -> None:
    preview = photo.resize((8, 8))
    file = saved(photo, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert open_image(file).size == photo.size


def test_cmyk_is_converted(tmp_path: Path) -> None:
    # By 255 (1 - ink) (1 - black): no ink, red, grey, black, and half cyan under a third of black.
    inks = [(0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 127), (0, 0, 0, 255), (128, 0, 0, 85)]
    image = PIL.Image.new("CMYK", (len(inks), 1))
    for x, ink in enumerate(inks):
        image.putpixel((x, 0), ink)
    expected = [[255, 255, 255], [255, 0, 0], [128, 128, 128], [0, 0, 0], [85, 170, 170]]
    assert values(open_image(saved(image, tmp_path / "a.tiff"))) == expected
    # Adobe's JPEG files hold the inks inverted; a plain field survives the compression.
    field = PIL.Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    got = np.asarray(open_image(saved(field, tmp_path / "a.jpg", quality=100))).astype(int)
    assert abs(got - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparent_colours_lie_on_white(suffix: str, tmp_path: Path) -> None:
    image = PIL.Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((255, 0, 51)):
        image.putpixel((x, 0), (255, 0, 100, alpha))
    settings = {"lossless": True, "exact": True} if suffix == "webp" else {}
    expected = [[255, 0, 100], [255, 255, 255], [255, 204, 224]]  # a fifth of the colour, four fifths of white
    assert values(open_image(saved(image, tmp_path / f"a.{suffix}", **settings))) == expected


def test_transparent_grey_lies_on_white(tmp_path: Path) -> None:
    image = PIL.Image.new("LA", (3, 1))
    for x, alpha in enumerate((255, 0, 51)):
        image.putpixel((x, 0), (100, alpha))
    expected = [[100] * 3, [255] * 3, [224] * 3]
    assert values(open_image(saved(image, tmp_path / "a.png"))) == expected
    assert values(open_image(image.convert("La"))) == expected


def test_palettes_with_transparency_lie_on_white(tmp_path: Path) -> None:
    image = PIL.Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    for x in range(3):
        image.putpixel((x, 0), x)
    one_clear = open_image(saved(image, tmp_path / "a.gif", transparency=1))
    assert values(one_clear) == [[200, 0, 0], [255, 255, 255], [0, 0, 200]]
    by_bytes = open_image(saved(image, tmp_path / "a.png", transparency=bytes([255, 0, 51])))
    assert values(by_bytes) == [[200, 0, 0], [255, 255, 255], [204, 204, 244]]
    assert values(open_image(saved(image, tmp_path / "b.png"))) == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]


def test_one_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    colours = PIL.Image.new("RGB", (2, 1), (9, 9, 9))
    colours.putpixel((1, 0), (10, 20, 30))
    assert values(open_image(saved(colours, tmp_path / "a.png", transparency=(10, 20, 30)))) == [[9] * 3, [255] * 3]
    grey = PIL.Image.new("L", (2, 1), 9)
    grey.putpixel((1, 0), 10)
    assert values(open_image(saved(grey, tmp_path / "b.png", transparency=10))) == [[9] * 3, [255] * 3]


GREY16 = {0: 0, 128: 0, 129: 1, 257: 1, 1000: 4, 32767: 127, 32768: 128, 65407: 255, 65535: 255}


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    image = PIL.Image.fromarray(np.array([list(GREY16)], np.uint16))
    file = saved(image, tmp_path / f"a.{suffix}")
    with PIL.Image.open(file) as stored:
        assert stored.mode == "I;16"
    assert values(open_image(file)) == [[grey] * 3 for grey in GREY16.values()]


def test_16_bit_grey_in_other_forms(tmp_path: Path) -> None:
    wide = PIL.Image.fromarray(np.array([list(GREY16)], np.int32))
    expected = [[grey] * 3 for grey in GREY16.values()]
    assert wide.mode == "I"
    assert values(open_image(wide)) == expected
    assert values(open_image(saved(wide, tmp_path / "a.tiff"))) == expected
    big_endian = tmp_path / "a.pgm"
    big_endian.write_bytes(b"P5 9 1 65535\n" + np.array(list(GREY16), ">u2").tobytes())
    assert values(open_image(big_endian)) == expected
    keyed = PIL.Image.fromarray(np.array([[1000, 1001]], np.uint16))
    assert values(open_image(saved(keyed, tmp_path / "a.png", transparency=1000))) == [[255] * 3, [4] * 3]


def test_32_bit_grey_that_may_be_of_8_bits_is_refused(tmp_path: Path) -> None:
    narrow = PIL.Image.fromarray(np.array([[0, 100, 252]], np.int32))
    for given in (narrow, saved(narrow, tmp_path / "a.tiff"), PIL.Image.new("L", (2, 2), 200).convert("I")):
        with pytest.raises(InputError, match="may be of 8 or of 16 bits; convert it to mode L or I;16"):
            open_image(given)
    black = PIL.Image.fromarray(np.zeros((1, 2), np.int32))
    assert values(open_image(black)) == [[0] * 3] * 2
    dark = tmp_path / "a.pgm"  # says that it is of 16 bits
    dark.write_bytes(b"P5 2 1 65535\n" + np.array([0, 200], ">u2").tobytes())
    assert values(open_image(dark)) == [[0] * 3, [1] * 3]


def test_one_bit_and_grey_are_converted(tmp_path: Path) -> None:
    bits = PIL.Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert values(open_image(saved(bits, tmp_path / "a.png"))) == [[0] * 3, [255] * 3]
    assert values(open_image(saved(PIL.Image.new("L", (1, 1), 77), tmp_path / "b.png"))) == [[77] * 3]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0, 70000]], np.int32), r"reach from 0 to 70000; allowed are 16 bits, 0 to 65535; scale"),
        (np.array([[-1, 5]], np.int32), r"reach from -1 to 5; allowed"),
        (np.array([[0.0, 0.5]], np.float32), r"floating-point numbers \(mode F\).*8 or 16 bits; scale"),
    ],
)
def test_values_of_unknown_range_are_refused(array: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        open_image(saved(PIL.Image.fromarray(array), tmp_path / "a.tiff"))


def test_what_is_not_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file '.*none.png'; give the path"):
        open_image(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"cannot be opened: Is a directory; give the path"):
        open_image(tmp_path)
    for content in (b"", b"a text", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=r"a.png' is not an image that Pillow can read; allowed are.*; save it as"):
            open_image(tmp_path / "a.png")
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(InputError, match=r"a file or a PIL image, got ndarray"):
            open_image(np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_truncated_files_are_refused(photo: Image, suffix: str, tmp_path: Path) -> None:
    file = saved(photo, tmp_path / f"a.{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=rf"a.{suffix}' cannot be read to its end: .* truncated or broken .*; get"):
        open_image(file)


def test_empty_and_very_long_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the image is empty, 0 x 5 pixels; an image has at least one"):
        open_image(PIL.Image.new("RGB", (0, 5)))
    for size in ((201, 1), (2, 401)):
        file = saved(PIL.Image.new("RGB", size), tmp_path / "a.png")
        with pytest.raises(InputError, match=rf"is {size[0]} x {size[1]} pixels; .* at most 200 times .*; crop"):
            open_image(file)


@pytest.mark.parametrize("side", [15, 30])
def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: int) -> None:
    # Pillow itself warns of more pixels than the limit, and refuses more than twice as many.
    image = PIL.Image.new("RGB", (side, side))
    file = saved(image, tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 200)
    for source in (file, image):
        with pytest.raises(InputError, match=rf"has {side**2} pixels, the limit is 200; shrink it, or.*raise PIL"):
            open_image(source)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert same(open_image(file), image)


def test_every_model_sees_images_this_way(tiny_vlm: VLM) -> None:
    clear = PIL.Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    siglip2 = radapt.load(tiny_siglip2(16), processor=processor(16))
    for model in (tiny_vlm, radapt.load(CLIP(), processor=tiny_vlm.processor), siglip2):
        assert (model.preprocess(clear) == 1).all()
        with pytest.raises(InputError, match="at most 200 times"):
            model.preprocess(PIL.Image.new("RGB", (201, 1)))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # refused whatever the user's filter
        with pytest.raises(InputError, match=rf"has {side**2} pixels, the limit is {PIL.Image.MAX_IMAGE_PIXELS};"):
            open_image(tmp_path / "a.png")


def test_a_file_of_another_kind_is_never_handed_to_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("a program is run")

    monkeypatch.setattr("subprocess.Popen", run)
    scripts = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"%PDF-1.4\n",
        b"8BPS\0\1",
        b"SIMPLE  = T",
    )
    for content in scripts:
        (tmp_path / "a.jpg").write_bytes(content)
        for source in (tmp_path / "a.jpg", content):
            with pytest.raises(
                InputError, match=r"is not an image that Pillow can read; allowed are .*PNG, JPEG, WebP"
            ):
                open_image(source)


def test_the_content_of_a_file_is_opened_as_the_file_is(photo: Image, tmp_path: Path) -> None:
    for kind in ("png", "bmp", "ppm", "tiff"):
        assert same(open_image(saved(photo, tmp_path / f"a.{kind}").read_bytes()), photo)


def test_an_image_of_others_may_have_so_many_pixels(photo: Image, tmp_path: Path) -> None:
    file = saved(photo, tmp_path / "photo.png")
    assert open_image(file, max_pixels=37 * 53).size == (53, 37)
    for source in (file, file.read_bytes(), photo):
        with pytest.raises(InputError, match="53 x 37 pixels, at most 1960 in all are allowed"):
            open_image(source, max_pixels=1960)

"""Opening images of every kind as plain RGB, upright and on white; what is not an image is refused."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageOps, UnidentifiedImageError
from PIL.Image import DecompressionBombError, DecompressionBombWarning, Image

from radapt.errors import InputError

__all__ = ["open_image"]

_LONGEST = 200
"""Largest ratio of the longer side to the shorter; Qwen-VL's resizing refuses more."""
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises for files that end early or contradict themselves."""
_SIXTEEN = ("PNG", "PPM")
"""Formats whose images of mode I are of 16 bits."""
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of pixels alone, whatever a file is called; for others, Pillow would run programs such as Ghostscript."""


@cache
def _formats() -> tuple[str, ...]:
    """Those of them that this Pillow reads."""
    PIL.Image.init()
    return tuple(each for each in _FORMATS if each in PIL.Image.OPEN)


def open_image(source: str | Path | bytes | Image, *, max_pixels: int | None = None) -> Image:
    """An image as RGB with 8 bits per channel, from a file or a PIL image, which is not changed.

    The EXIF orientation is applied. Transparent parts become white. 16-bit grey is scaled to 8 bits. Of an animated
    image or one of several pages, the first frame is taken, with a warning; of a PIL image, the frame that it is at.

    Args:
        source: a file of one of the usual formats (PNG, JPEG, WebP, TIFF...), its content, or a PIL image of any mode.
        max_pixels: most pixels that it may have, for images of people who are not trusted; the limit of Pillow counts,
            too.

    Raises:
        InputError: there is no such file, it is not such an image or a truncated one; the image is empty, has more
            pixels than ``max_pixels`` or ``PIL.Image.MAX_IMAGE_PIXELS``, or one side is more than 200 times the other;
            its values have no known range.
    """
    name = repr(str(source)) if isinstance(source, (str, Path)) else "the image"
    with warnings.catch_warnings():
        warnings.simplefilter("error", DecompressionBombWarning)
        try:
            if isinstance(source, Image):
                return _plain(source, name, max_pixels)
            if not isinstance(source, (str, Path, bytes)):
                raise InputError(f"an image must be a file or a PIL image, got {type(source).__name__}")
            content = BytesIO(source) if isinstance(source, bytes) else source
            with PIL.Image.open(content, formats=_formats()) as image:
                return _plain(image, name, max_pixels)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"there is no file {name}; give the path of an image") from error
        except (IsADirectoryError, PermissionError) as error:
            raise InputError(f"{name} cannot be opened: {error.strerror}; give the path of an image") from error
        except UnidentifiedImageError as error:
            raise InputError(
                f"{name} is not an image that Pillow can read; allowed are whole files in PNG, JPEG, WebP, TIFF "
                f"and the like ({', '.join(_formats())}); save it as one of these"
            ) from error
        except (DecompressionBombError, DecompressionBombWarning) as error:
            found = re.search(r"\d+", str(error))
            raise _too_large(name, found.group() if found else "too many") from error
        except _BROKEN as error:
            reason = str(error).strip() or type(error).__name__
            raise InputError(
                f"{name} cannot be read to its end: it is truncated or broken ({reason}); get it again"
            ) from error


def _too_large(name: str, pixels: int | str) -> InputError:
    return InputError(
        f"{name} has {pixels} pixels, the limit is {PIL.Image.MAX_IMAGE_PIXELS}; shrink it, or, if you trust where it "
        "comes from, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _plain(image: Image, name: str, max_pixels: int | None) -> Image:
    width, height = image.size
    if not width or not height:
        raise InputError(f"{name} is empty, {width} x {height} pixels; an image has at least one")
    if max(width, height) > _LONGEST * min(width, height):
        raise InputError(
            f"{name} is {width} x {height} pixels; the longer side may be at most {_LONGEST} times the shorter; "
            "crop it first"
        )
    if max_pixels is not None and width * height > max_pixels:
        raise InputError(f"{name} has {width} x {height} pixels, at most {max_pixels} in all are allowed; shrink it")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and width * height > PIL.Image.MAX_IMAGE_PIXELS:
        raise _too_large(name, width * height)
    # Further images in an MPO file are previews and depth maps of the first, which phones write without being asked.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        frames, at = getattr(image, "n_frames", 1), image.tell()
        warnings.warn(f"{name} has {frames} frames; frame {at + 1} is taken, the others are ignored", stacklevel=3)
    image.load()
    upright = _upright(image, name)
    if upright.mode.startswith("I"):
        return _grey(upright, name, deep=upright.mode != "I" or image.format in _SIXTEEN)
    if upright.mode == "F":
        raise InputError(
            f"the values of {name} are floating-point numbers (mode F) of no known range; allowed are integers of 8 or "
            "16 bits; scale them first"
        )
    if upright.has_transparency_data:
        return _on_white(upright)
    return upright.convert("RGB")


def _upright(image: Image, name: str) -> Image:
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        warnings.warn(f"the EXIF data of {name} cannot be read; its orientation is not applied", stacklevel=4)
        return image


def _on_white(image: Image) -> Image:
    straight = image.convert("LA") if image.mode == "La" else image
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")


def _grey(image: Image, name: str, *, deep: bool) -> Image:
    """16-bit grey, rounded to the nearest of 256 levels; Pillow's own conversion may clip.

    Args:
        image: the image.
        name: what it is called.
        deep: whether its format says 16 bits; else values that 8 bits hold may be of those.
    """
    values = np.asarray(image).astype(np.int64)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise InputError(
            f"the values of {name} (mode {image.mode}) reach from {least} to {most}; allowed are 16 bits, 0 to 65535; "
            "scale them first"
        )
    if not deep and 0 < most <= 255:
        raise InputError(
            f"the values of {name} (mode {image.mode}) reach to {most} and may be of 8 or of 16 bits; convert it to "
            "mode L or I;16 first"
        )
    grey = ((values + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return PIL.Image.fromarray(grey).convert("RGB")

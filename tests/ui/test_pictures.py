"""Pictures of people's own, of every awkward kind, and those that come with the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tests.ui.conftest import bomb

from radapt.errors import InputError
from radapt.ui._actions import Actions
from radapt.ui._pictures import CLASS_SETS, QUESTION_SETS, Picture, built_in, uploaded

RED = PIL.Image.new("RGB", (60, 60), (255, 0, 0))


def own(actions: Actions, file: Path) -> Picture:
    return uploaded(actions.shelf.models, file)


def test_a_picture_is_read_for_every_model(actions: Actions, tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    picture = own(actions, tmp_path / "red.png")
    assert set(picture.pixels) == {"micro/clip", "micro/llava"}
    assert all(each.shape == (3, 48, 48) for each in picture.pixels.values())
    assert torch.allclose(picture.pixels["micro/clip"].mean((1, 2)), torch.tensor([1.0, 0, 0]))
    assert (picture.title, picture.right, picture.note, picture.own) == ("your picture, 60 x 60 pixels", "", "", True)


def test_transparent_parts_are_white(actions: Actions, tmp_path: Path) -> None:
    PIL.Image.new("RGBA", (60, 60), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert float(own(actions, tmp_path / "clear.png").pixels["micro/clip"].min()) == 1


def test_sixteen_bits_are_scaled(actions: Actions, tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((60, 60), 257 * 128, dtype=np.uint16)).save(tmp_path / "grey.png")
    pixels = own(actions, tmp_path / "grey.png").pixels["micro/clip"]
    assert torch.allclose(pixels, torch.tensor(128 / 255), atol=1e-6)


def test_a_turned_photo_is_upright(actions: Actions, tmp_path: Path) -> None:
    photo = PIL.Image.new("RGB", (60, 60), (0, 0, 255))
    photo.paste(RED.crop((0, 0, 60, 30)), (0, 0))  # red above
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # upside down
    photo.save(tmp_path / "photo.jpg", exif=exif, quality=100)
    pixels = own(actions, tmp_path / "photo.jpg").pixels["micro/clip"]
    assert float(pixels[0, :10].mean()) < 0.1
    assert float(pixels[0, -10:].mean()) > 0.9


def test_of_an_animation_the_first_frame_is_taken_and_said_so(actions: Actions, tmp_path: Path) -> None:
    frames = [RED, PIL.Image.new("RGB", (60, 60), (0, 0, 255))]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    picture = own(actions, tmp_path / "two.gif")
    assert "2 frames; frame 1 is taken" in picture.note
    assert float(picture.pixels["micro/clip"][0].mean()) > 0.95


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is a text", "is not an image that Pillow can read"),
        (b"", "is not an image that Pillow can read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image that Pillow can read"),
        (bomb(6000), "6000 x 6000 pixels, at most 25000000 in all are allowed"),
        (bomb(60_000), "3600000000 pixels, the limit is"),
        (bomb(50), "cannot be read to its end"),
        (bytes(10 * 2**20 + 1), "the file has 10.0 MiB; at most 10 MiB are allowed"),
    ],
    ids=["text", "empty", "svg", "large", "bomb", "short", "bytes"],
)
def test_what_is_no_picture_is_refused_in_a_sentence(
    actions: Actions, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "file.png").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        own(actions, tmp_path / "file.png")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLASS_SETS, *QUESTION_SETS])
def test_every_set_has_pictures_with_their_answers(actions: Actions, name: str) -> None:
    picture = built_in(actions.shelf.models, name, 11)
    assert picture.title == f"{name}, picture 12"
    assert picture.right or picture.questions
    assert all(float(each.max()) <= 1 for each in picture.pixels.values())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc", "imagenet-1k", ""])
def test_nothing_else_is_read_as_a_set(actions: Actions, name: str) -> None:
    with pytest.raises(InputError, match="there is no set"):
        built_in(actions.shelf.models, name, 0)


@pytest.mark.parametrize("position", [-1, 12])
def test_a_set_has_twelve_pictures(actions: Actions, position: int) -> None:
    with pytest.raises(InputError, match="pictures 1 to 12"):
        built_in(actions.shelf.models, "shapes", position)

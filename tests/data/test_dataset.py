"""The Dataset noun: prompts, positions, and data that do not fit together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from radapt.data import Card, Dataset, card, fill, load_dataset
from radapt.errors import InputError


def make(details: Card | None = None, **changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "card": details or card("shapes"),
        "split": "test",
        "images": np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3),
        "labels": torch.tensor([0, 1, 1, 0]),
        "classes": ("apple", "pear"),
    }
    return Dataset(**{**values, **changes})


@pytest.mark.parametrize(
    ("template", "name", "sentence"),
    [
        ("a photo of {a c}.", "arrow", "a photo of an arrow."),
        ("a photo of {a c}.", "star", "a photo of a star."),
        ("a photo of {a c}.", "Orange cat", "a photo of an Orange cat."),
        ("a photo of a {c}.", "arrow", "a photo of a arrow."),
        ("{a c}: the {c}", "orange star", "an orange star: the orange star"),
        ("{b} {c}", "x", "{b} x"),
    ],
)
def test_templates_are_filled(template: str, name: str, sentence: str) -> None:
    assert fill(template, name) == sentence


def test_prompts_are_grouped_by_class() -> None:
    expected = (
        ("a photo of an apple", "a picture of an apple", "an apple"),
        ("a photo of a pear", "a picture of a pear", "a pear"),
    )
    assert make().prompts == expected


def test_images_come_in_the_order_asked_for() -> None:
    data = make()
    pixels = data.pixels([2, 0, 2])
    assert pixels.shape == (3, 3, 2, 2)
    assert torch.equal(pixels[0], pixels[2])
    # Sample 2 starts at byte 24; its second channel, lower left pixel is byte 24 + 2 * 3 + 1.
    assert pixels[0, 1, 1, 0].item() == pytest.approx(31 / 255, abs=1e-7)
    assert torch.equal(data.pixels(torch.tensor([2, 0, 2])), pixels)
    assert data.pixels([]).shape == (0, 3, 2, 2)


def test_white_is_exactly_one() -> None:
    assert make(images=np.full((4, 2, 2, 3), 255, np.uint8)).pixels([0]).unique().tolist() == [1.0]


def test_changed_pixels_leave_the_dataset_alone() -> None:
    data = make()
    data.pixels([0]).fill_(0.5)
    assert data.pixels([0])[0, 0, 0, 0].item() == 0


@pytest.mark.parametrize("position", [-1, 4, 1000])
def test_a_position_outside_is_refused(position: int) -> None:
    with pytest.raises(InputError, match=f"shapes: no sample {position}; positions are 0 to 3"):
        make().pixels([0, position])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([0, 1, 2, 0])}, "labels must be 0 to 1, got 0 to 2"),
        ({"labels": torch.tensor([0, -1, 1, 0])}, "got -1 to 1"),
        ({"labels": torch.tensor([0, 1])}, "4 images needs 4 labels, got 2"),
        ({"labels": torch.tensor([0, 1, 1, 0], dtype=torch.int32)}, "labels must be int64"),
        (
            {"classes": ("apple", " apple")},
            "classes must have different names, and the classes 0 and 1 are both called",
        ),
        ({"captions": (("a",),) * 4}, "needs 0 captions, got 4"),
        ({"images": np.zeros((4, 3, 2, 2), np.uint8)}, "N x height x width x 3"),
        ({"details": card("shapeworld-vqa")}, "needs 0 labels, got 4"),
        ({"details": card("shapeworld-retrieval"), "labels": torch.empty(0, dtype=torch.int64)}, "needs 4 captions"),
    ],
)
def test_data_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_a_dataset_says_what_it_is() -> None:
    assert repr(make()) == "Dataset('shapes', test, n=4, 2 x 2 px, zero-shot, 2 classes)"
    questions = make(card("shapeworld-vqa"), labels=torch.empty(0, dtype=torch.int64), classes=(), questions=((),) * 4)
    assert repr(questions) == "Dataset('shapeworld-vqa', test, n=4, 2 x 2 px, vqa)"


def test_the_digest_of_a_sample_begins_with_that_of_its_image() -> None:
    data = load_dataset("shapeworld-vqa", n=4, quiet=True)
    images = np.stack([data.images[0], data.images[0], data.images[1], data.images[0]])
    asked = tuple(data.questions[at] for at in (0, 1, 2, 0))
    first, second, third, fourth = replace(data, images=images, questions=asked).digests
    assert len({first, second, third}) == 3
    assert first == fourth
    image, dot, _ = first.partition(".")
    assert dot
    assert second.startswith(f"{image}.")
    assert not third.startswith(image)
    labelled = load_dataset("shapes", n=4, quiet=True)
    other = replace(labelled, labels=(labelled.labels + 1) % len(labelled.classes))
    for one, two in zip(labelled.digests, other.digests, strict=True):
        assert one.partition(".")[0] == two.partition(".")[0]
        assert one != two

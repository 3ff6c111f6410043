"""Images and labels in every form: converted to the same tensor, or refused with one message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from radapt.attacks._inputs import images_of, labels_of
from radapt.errors import InputError

IMAGES = (torch.arange(2 * 3 * 4 * 5) % 8 / 8).view(2, 3, 4, 5)
LABELS = torch.tensor([2, 0, 1])
HOT = torch.eye(3)[LABELS]


def inference() -> Tensor:
    with torch.inference_mode():
        return IMAGES + 0


@pytest.mark.parametrize(
    "given",
    [
        IMAGES.double(),
        IMAGES.half(),
        IMAGES.bfloat16(),
        IMAGES.numpy(),
        IMAGES.double().numpy(),
        IMAGES.half().numpy(),
        IMAGES.numpy().astype(">f4"),
        IMAGES.flip(3).numpy()[..., ::-1],
        IMAGES.to(memory_format=torch.channels_last),
        IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        IMAGES.repeat(2, 1, 1, 1)[:2],
        IMAGES.clone().requires_grad_(True),
        IMAGES.clone().requires_grad_(True) * 1,
        inference(),
        list(IMAGES),
        tuple(IMAGES),
        [IMAGES[0], IMAGES[1].double()],
        [IMAGES[0].numpy(), IMAGES[1]],
        IMAGES.tolist(),
    ],
)
def test_images_of_every_form_are_the_same_tensor(given: Any) -> None:
    images = images_of("images", given)
    assert torch.equal(images, IMAGES)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert not images.requires_grad
    assert not images.is_inference()
    images.zero_()
    assert IMAGES.any()


def test_read_only_arrays_are_copied() -> None:
    array = IMAGES.numpy().copy()
    array.setflags(write=False)
    images_of("images", array).zero_()
    assert array.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IMAGES.mul(255).byte(), "divide bytes by 255"),
        (IMAGES.mul(255).byte().numpy(), r"got torch.uint8; divide bytes by 255"),
        (IMAGES.mul(255).numpy().astype(np.uint16), "divide bytes by 255"),
        (list(IMAGES.mul(255).byte()), "divide bytes by 255"),
        (IMAGES.long(), "floating-point"),
        (IMAGES.bool(), "floating-point"),
        (IMAGES.permute(0, 2, 3, 1), r"N x 3 x height x width .*\(2, 4, 5, 3\)"),
        (IMAGES[0], "N x 3 x height x width"),
        (IMAGES[:0], "at least one image"),
        ([], "at least one image"),
        ([IMAGES[0], IMAGES[1, :, :2]], "must all have one shape"),
        ([IMAGES[0], IMAGES[1].byte()], "must all have one type"),
        ([IMAGES[0], "a.png"], "cannot be read as one tensor|must be a tensor"),
        ([[0.1], [0.1, 0.2]], "cannot be read as one tensor"),
        (["a.png"], "cannot be read as one tensor"),
        ("a.png", "must be a tensor, an array or a list"),
        (None, "must be a tensor, an array or a list"),
        (iter(IMAGES), "must be a tensor, an array or a list"),
        (np.array([None, None]), "cannot be read as one tensor"),
        (IMAGES * 255, r"must lie in \[0, 1\]"),
        (IMAGES.double() - 0.1, r"must lie in \[0, 1\]"),
        (IMAGES.where(IMAGES > 0, torch.nan), "sample 0 contain NaN"),
    ],
)
def test_what_are_no_images_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _unchecked(images_of)("images", given)


@pytest.mark.parametrize(
    "given",
    [
        LABELS,
        *(LABELS.to(kind) for kind in (torch.int32, torch.int16, torch.int8, torch.uint8)),
        LABELS.tolist(),
        tuple(LABELS.tolist()),
        list(LABELS),
        [np.int32(2), np.int64(0), 1],
        *(LABELS.numpy().astype(kind) for kind in ("u1", "u2", "u4", "u8", "i1", ">i4", "i8")),
        HOT,
        HOT.bool(),
        HOT.long().numpy(),
        HOT.double().tolist(),
        torch.arange(6)[::2].flip(0).div(2, rounding_mode="floor")[[0, 2, 1]],
    ],
)
def test_labels_of_every_form_are_the_same_tensor(given: Any) -> None:
    labels = labels_of(given, classes=3)
    assert torch.equal(labels, LABELS)
    assert labels.dtype == torch.int64
    labels.zero_()
    assert LABELS.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LABELS.float(), "whole numbers"),
        ([2.0, 0.0, 1.0], "whole numbers"),
        (np.array([0.5, 1.0]), "whole numbers"),
        (LABELS.bool(), "whole numbers"),
        ([True, False], "whole numbers"),
        (["cat", "dog"], "cannot be read"),
        ([[0], [1, 2]], "cannot be read"),
        ([None, 1], "cannot be read"),
        (3, "must be a tensor, an array or a list"),
        (torch.tensor(3), "whole numbers"),
        (LABELS[:, None], "one-hot rows"),
        (HOT + HOT.flip(1), "one-hot rows"),
        (0 * HOT, "one-hot rows"),
        (0.9 * HOT, "one-hot rows"),
        (torch.eye(4)[LABELS], "4 columns, but the model has 3 classes"),
        (LABELS + 1, r"labels must lie in 0\.\.2, got 1\.\.3"),
        (LABELS - 1, r"labels must lie in 0\.\.2, got -1\.\.1"),
        (np.array([2**64 - 1, 0], dtype=np.uint64), r"labels must lie in 0\.\.2"),
        ([10**30, 0], "cannot be read|whole numbers"),
    ],
)
def test_what_are_no_labels_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _unchecked(labels_of)(given, classes=3)


def _unchecked(function: Any) -> Any:
    """The function without the checks that the tests put around it: its own are meant here."""
    return getattr(function, "__wrapped__", function)

"""Several zero-shot sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch

from radapt.errors import InputError

from ._dataset import Dataset
from ._stack import stacked

__all__ = ["joined"]


def joined(sets: Sequence[Dataset]) -> Dataset:
    """The samples of several zero-shot sets, one set after the other, with the classes of all.

    Classes of one name are one class. The card is that of the first set, with the templates of all. One set alone is
    returned as it is, of whatever task.

    Raises:
        InputError: there is no set, one without labels, images of different sizes, or sets of different splits.
    """
    if not sets:
        raise InputError("there are no datasets to join")
    if len(sets) == 1:
        return sets[0]
    if unlabelled := [each.name for each in sets if not each.classes]:
        raise InputError(f"only zero-shot sets can be joined; {', '.join(unlabelled)} has no classes")
    if len(sizes := {each.image_size for each in sets}) > 1:
        raise InputError(f"datasets that are joined need images of one size, got {sorted(sizes)}")
    if len({each.split for each in sets}) > 1:
        got = ", ".join(f"{each.name} ({each.split})" for each in sets)
        raise InputError(f"datasets that are joined need one split, got {got}; what is of test stays apart")
    classes = tuple(dict.fromkeys(chain.from_iterable(each.classes for each in sets)))
    places = [torch.tensor([classes.index(name) for name in each.classes], device="cpu") for each in sets]
    names = "-".join(each.name for each in sets)
    details = replace(
        sets[0].card,
        name=names,
        title=", ".join(each.card.title for each in sets),
        templates=tuple(dict.fromkeys(chain.from_iterable(each.templates for each in sets))),
        classes=(),
    )
    left_out, before = list[int](), 0
    for each in sets:
        left_out += [before + number for number in each.left_out]
        before += len(each) + len(each.left_out)
    return Dataset(
        card=details,
        split=sets[0].split,
        images=stacked(chain.from_iterable(each.images for each in sets)),
        labels=torch.cat([place[each.labels] for place, each in zip(places, sets, strict=True)]),
        classes=classes,
        left_out=tuple(left_out),
    )

"""What every dataset must hold, whatever its card says."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from radapt.data import Dataset, card, datasets, fill, load_dataset
from radapt.data._hub import OPTIONS
from radapt.errors import SettingsError
from radapt.micro.clip import build_tokenizer

NAMES = [name for name in datasets() if card(name).source != "hub"]  # those that need no network
HUB = [name for name in datasets() if card(name).source == "hub"]
SPLITS = ("train", "validation", "test")
ROUNDING = 0.5 / 255 + 1e-6  # of the 8-bit images
TASK_FIELDS = {"zero-shot": "labels", "retrieval": "captions", "captioning": "captions", "vqa": "questions"}


@cache
def load(name: str, split: str = "test", n: int = 60) -> Dataset:
    return load_dataset(name, split=split, n=n)


def extremes(name: str) -> tuple[float, float]:
    """Darkest and brightest value of a set: images of the world fill its contrast, those of others 0 to 1."""
    details = card(name)
    options = dict(details.options.get("world", {}))  # type: ignore[call-overload]
    contrast = options.get("contrast", 0.5) if details.source == "shapeworld" else 1
    return 0.5 - contrast / 2, 0.5 + contrast / 2


def digests(data: Dataset) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in data.images]


def sentences(data: Dataset) -> list[str]:
    texts = [text for prompts in data.prompts for text in prompts]
    texts += [text for captions in data.captions for text in captions]
    return texts + [text for pairs in data.questions for pair in pairs for text in pair]


@pytest.mark.parametrize("name", NAMES)
def test_card_says_what_the_set_is_and_under_which_terms(name: str) -> None:
    details = card(name)
    assert details.name == name
    assert details.licence in {"CC0-1.0", "CC-BY-4.0"}
    assert "frequency" in details.tests
    assert all(text.endswith(".") for text in (details.citation, details.description, details.tests))


@pytest.mark.parametrize("name", HUB)
def test_card_of_the_hub_is_whole_and_understood(name: str) -> None:
    details = card(name)
    assert set(details.options) <= set(OPTIONS[details.task])
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", str(details.options["repository"]))
    assert set(details.options.get("splits", SPLITS)) <= set(SPLITS)  # type: ignore[call-overload]
    assert details.n is not None
    assert details.licence.strip(" .")
    assert all(text.endswith(".") for text in (details.citation, details.description, details.tests))
    prompts = [fill(template, "thing") for template in details.templates]
    assert not any("{" in text or text == "thing" for text in prompts)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_floats_from_0_to_1(name: str) -> None:
    data = load(name)
    pixels = data.pixels(range(len(data)))
    assert (pixels.dtype, pixels.shape) == (torch.float32, (60, 3, 48, 48))
    assert pixels.is_contiguous()
    low, high = extremes(name)
    assert low - ROUNDING <= float(pixels.min()) < low + 0.05
    assert high - 0.05 < float(pixels.max()) <= high + ROUNDING
    expected = data.images[7].astype(np.float64).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(data.pixels([3, 7])[1].numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_truth_of_the_task_is_there(name: str) -> None:
    data = load(name)
    for field in ("labels", "captions", "questions"):
        assert len(getattr(data, field)) == (60 if field == TASK_FIELDS[data.card.task] else 0)
    assert bool(data.classes) == bool(data.templates) == (data.card.task == "zero-shot")


@pytest.mark.parametrize("name", [name for name in NAMES if card(name).task == "zero-shot"])
def test_labels_are_balanced(name: str) -> None:
    n, classes = 240, len(load(name).classes)
    labels = load(name, n=n).labels
    counts = Counter(labels.tolist())
    assert labels.dtype == torch.int64
    assert set(counts) == set(range(classes))
    slack = 6 if name == "digits" else 1
    assert all(abs(count - n / classes) < slack for count in counts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_image(name: str) -> None:
    seen = [digest for split in SPLITS for digest in digests(load(name, split, 150))]
    assert len(seen) == len(set(seen)) == 450


@pytest.mark.parametrize("name", NAMES)
def test_fewer_samples_are_the_beginning_of_more(name: str) -> None:
    few, more = load(name, n=30), load(name, n=130)
    np.testing.assert_array_equal(few.images, more.images[:30])
    assert few.labels.tolist() == more.labels[:30].tolist()
    assert few.captions == more.captions[:30]
    assert few.questions == more.questions[:30]
    assert few.keys == more.keys[:30]
    assert few.keys[29] == f"{name}/test/29"


@pytest.mark.parametrize("name", NAMES)
def test_every_sentence_is_in_the_vocabulary(name: str) -> None:
    tokenizer = build_tokenizer()
    texts = sorted(set(sentences(load(name))))
    tokens = tokenizer(texts)["input_ids"]
    unknown = [text for text, ids in zip(texts, tokens, strict=True) if tokenizer.unk_token_id in ids]
    assert texts
    assert unknown == []
    assert max(len(ids) for ids in tokens) <= tokenizer.model_max_length


@pytest.mark.parametrize("name", NAMES)
def test_articles_are_right(name: str) -> None:
    for text in sentences(load(name)):
        for article, following in pairwise(text.split()):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou"), text


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_classes_differ(name: str) -> None:
    prompts = [text for texts in load(name).prompts for text in texts]
    assert len(prompts) == len(set(prompts))
    assert not any("{" in text for text in prompts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, -1, True])
def test_a_wrong_number_of_samples_is_refused(name: str, n: int) -> None:
    with pytest.raises(SettingsError, match="n must be a whole number from 1 up"):
        load_dataset(name, n=n)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="unknown split 'tset'; did you mean 'test'"):
        load_dataset(name, split="tset")


def test_the_card_sets_how_many_samples_are_used() -> None:
    assert len(load_dataset("shapeworld-vqa")) == card("shapeworld-vqa").n
    assert len(load_dataset("digits")) == 597
    assert [len(load_dataset("digits", split=split)) for split in SPLITS] == [1000, 200, 597]


SCRIPT = """
import hashlib
from radapt.data import card, datasets, load_dataset
for name in datasets():
    if card(name).source == "hub":
        continue
    data = load_dataset(name, n=10)
    truth = repr((data.labels.tolist(), data.classes, data.captions, data.questions, data.keys))
    print(name, hashlib.sha256(data.images.tobytes() + truth.encode()).hexdigest())
"""


@pytest.mark.slow
def test_another_process_with_its_own_cache_loads_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "RADAPT_CACHE": str(tmp_path), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = []
    for name in NAMES:
        data = load(name, n=10)
        truth = repr((data.labels.tolist(), data.classes, data.captions, data.questions, data.keys))
        expected.append(f"{name} {hashlib.sha256(data.images.tobytes() + truth.encode()).hexdigest()}")
    assert lines == expected

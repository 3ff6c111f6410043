"""The sixteen zero-shot sets of the paper: what their cards say, and that they read a copy in the hub's format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from tests.data.hub_files import archives, parquet, which

import radapt.data
from radapt.data import card, load_dataset

# name: repository, metric, the card's own first template
SETS = {
    "imagenet-1k": ("clip-benchmark/wds_imagenet1k", "top-1", "a bad photo of a {c}."),
    "cifar-10": ("clip-benchmark/wds_vtab-cifar10", "top-1", "a photo of a {c}."),
    "cifar-100": ("clip-benchmark/wds_vtab-cifar100", "top-1", "a photo of a {c}."),
    "stl-10": ("clip-benchmark/wds_stl10", "top-1", "a photo of a {c}."),
    "caltech-101": ("clip-benchmark/wds_vtab-caltech101", "mean-per-class", "a photo of a {c}."),
    "caltech-256": ("ilee0022/Caltech-256", "top-1", "a photo of a {c}."),
    "pets": ("clip-benchmark/wds_vtab-pets", "mean-per-class", "a photo of a {c}, a type of pet."),
    "flowers-102": ("clip-benchmark/wds_vtab-flowers", "mean-per-class", "a photo of a {c}, a type of flower."),
    "food-101": ("clip-benchmark/wds_food101", "top-1", "a photo of {c}, a type of food."),
    "cars": ("clip-benchmark/wds_cars", "top-1", "a photo of a {c}."),
    "sun397": ("tanganke/sun397", "top-1", "a photo of a {c}."),
    "country211": ("clip-benchmark/wds_country211", "top-1", "a photo i took in {c}."),
    "aircraft": ("clip-benchmark/wds_fgvc_aircraft", "mean-per-class", "a photo of a {c}, a type of aircraft."),
    "eurosat": ("clip-benchmark/wds_vtab-eurosat", "top-1", "a centered satellite photo of {c}."),
    "dtd": ("clip-benchmark/wds_vtab-dtd", "top-1", "a photo of a {c} texture."),
    "pcam": ("clip-benchmark/wds_vtab-pcam", "top-1", "a histopathology slide showing {c}"),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables on the disk stay out of the user's own cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", SETS)
def test_the_sets_of_the_paper_are_as_agreed(name: str) -> None:
    details = card(name)
    assert (details.options["repository"], details.metric, details.templates[0]) == SETS[name]
    assert (details.task, details.source, details.n) == ("zero-shot", "hub", 1000)
    assert details.options["shuffle"] == 0
    splits: Any = details.options.get("splits", {"test": "test", "validation": "validation", "train": "train"})
    assert list(splits.values()) in (
        ["test", "validation", "train"],
        ["test[:1000]", "test[1000:2000]", "test[2000:]"],
        ["test[:1000]", "test[1000:2000]", "train"],  # where the train split is small
        ["test[:1000]", "test[1000:1400]", "test[1400:]"],  # DTD has 1,880
    )


@pytest.mark.parametrize("name", SETS)
def test_a_shipped_card_reads_a_local_copy_once_the_repository_is_changed(name: str, tmp_path: Path) -> None:
    shipped = Path(radapt.data.__file__).parent / "cards" / f"{name}.yaml"
    shutil.copy(shipped, tmp_path)
    local, copy = tmp_path / "copy", tmp_path / f"{name}.yaml"
    copy.write_text(copy.read_text().replace(f"repository: {SETS[name][0]}", f"repository: {local}"))
    if name == "caltech-256":
        parquet(local, {"label": [2, 257, 2, 1], "text": ["american-flag", "clutter", "american-flag", "ak47"]})
        expected, labels = ("ak47", "american flag", "clutter"), [1, 2, 1, 0]
    elif name == "sun397":
        labels, expected = [1, 2, 1, 0], ("abbey", "airplane cabin", "alley")
        parquet(local, {"label": labels}, label=datasets.ClassLabel(names=list(expected)))
    else:
        labels, expected = [1, 2, 1, 0], ("tabby cat", "missile", "projectile")
        archives(local, labels)
        if name == "imagenet-1k":  # two pairs of its classes have one name in the file
            doubles = {657: "missile", 744: "missile", 836: "sunglasses", 837: "sunglasses"}
            lines = [doubles.get(at, f"thing {at}") for at in range(1000)]
            (local / "classnames.txt").write_text("\n".join(lines))
            expected = tuple({**dict(enumerate(lines)), 744: "projectile", 836: "sunglass"}.values())
        (local / "templates.txt").rename(local / "zeroshot_classification_templates.txt")
    data = load_dataset(str(copy), n=4)
    assert data.images.shape == (4, 224, 224, 3)
    assert data.classes == expected
    assert data.labels.tolist() == [labels[at] for at in which(data)]
    assert data.keys[0] == f"{name}/test/0"

"""Transferred images that a folder keeps: made once, found by whoever needs the same ones, and by nobody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.tiny import own_labels, tiny_clip

from radapt.adapters import training_free
from radapt.attacks import Outcome
from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.evaluation import BoundTask, _transferred, estimate_cost, evaluate
from radapt.models import VLM
from radapt.results import Results, Sample


@pytest.fixture
def clip() -> VLM:
    return tiny_clip()


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Positions of the samples of which images for other models were made, attack by attack."""
    made, attack = list[tuple[int, ...]](), BoundTask.attack

    def watched(self: Any, how: Any, pixels: Any, positions: Sequence[int], **named: Any) -> Outcome:
        if not named["stop"]:
            made.append(tuple(positions))
        return attack(self, how, pixels, positions, **named)

    monkeypatch.setattr(BoundTask, "attack", watched)
    return made


def run(path: Path, clip: VLM, n: int = 6, *, data: Dataset | None = None, **settings: Any) -> dict[str, list[Sample]]:
    """Two candidates under transfer from the undefended model: their samples."""
    given: dict[str, Any] = {
        "attack": "pgd",
        "options": {"steps": 2},
        "source": "undefended",
        "undefended": clip,
        "batch_size": 4,
        "sanity": False,
        "quiet": True,
        **settings,
    }
    candidates = {f"alpha {alpha}": (clip, training_free(clip, alpha=alpha)) for alpha in (0.2, 0.6)}
    own = data or own_labels(clip, n)
    found = evaluate(given.pop("candidates", candidates), data=own, results=path, **given)
    with Results(path, read_only=True) as results:
        return {each.setting.method: results.samples(each.setting) for each in found if each.setting.attack == "pgd"}


def test_images_are_made_once_for_all_evaluations_and_give_the_same_results(
    clip: VLM, tmp_path: Path, attacks: list[tuple[int, ...]]
) -> None:
    alone = run(tmp_path / "alone.sqlite", clip)
    assert attacks == [(0, 1, 2, 3, 4, 5)]
    kept = tmp_path / "kept"
    first = run(tmp_path / "first.sqlite", clip, transferred=kept)
    assert len(attacks) == 2
    other = {"other": (clip, training_free(clip, alpha=0.9))}
    run(tmp_path / "other.sqlite", clip, transferred=str(kept), candidates=other)
    again = run(tmp_path / "again.sqlite", clip, transferred=kept)
    assert len(attacks) == 2
    assert alone == first == again
    assert all(sample.distance is not None for sample in again["alpha 0.2"])


def test_chunks_are_found_whole_or_not_at_all(clip: VLM, tmp_path: Path, attacks: list[tuple[int, ...]]) -> None:
    """An image that is attacked among others may differ in its last bits."""
    kept = tmp_path / "kept"
    run(tmp_path / "a.sqlite", clip, 6, transferred=kept, chunk_size=3)
    run(tmp_path / "b.sqlite", clip, 8, transferred=kept, chunk_size=3)
    assert attacks == [(0, 1, 2), (3, 4, 5), (6, 7)]
    attacks.clear()
    run(tmp_path / "c.sqlite", clip, 5, transferred=kept, chunk_size=3)
    assert attacks == [(3, 4)]


def repainted(data: Dataset) -> Dataset:
    images = data.images.copy()
    images[0] = 255 - images[0]
    return replace(data, images=images)


def reworded(data: Dataset) -> Dataset:
    return replace(data, card=replace(data.card, templates=("an image of {a c}",)))


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"seed": 1}, 6),
        ({"eps": 2 / 255}, 6),
        ({"norm": "l2", "eps": 0.5}, 6),
        ({"options": {"steps": 3}}, 6),
        ({"attack": "fgsm", "options": {}}, 6),
        ({"undefended": tiny_clip(seed=1)}, 6),
        ({"undefended": tiny_clip("another name")}, 6),
        ({"data": repainted}, 6),
        ({"data": reworded}, 6),
        ({"chunk_size": 3}, 6),
        ({"batch_size": 2}, 6),
        ({"candidates": {"another": tiny_clip(seed=2)}}, 0),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_what_an_image_depends_on_tells_it_from_others(
    clip: VLM, tmp_path: Path, attacks: list[tuple[int, ...]], change: dict[str, Any], made: int
) -> None:
    data = own_labels(clip, 6)
    run(tmp_path / "a.sqlite", clip, data=data, transferred=tmp_path / "kept")
    attacks.clear()
    altered: Callable[[Dataset], Dataset] | None = change.pop("data", None)
    run(tmp_path / "b.sqlite", clip, data=altered(data) if altered else data, transferred=tmp_path / "kept", **change)
    assert sum(map(len, attacks)) == made


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def painted(file: Path) -> None:
    """One pixel is another one, in a file that is whole."""
    tensors = load_file(file)
    tensors["images"][0, 0, 0, 0] += 0.01
    with safe_open(file, "pt") as opened:
        save_file(tensors, file, opened.metadata())


def stripped(file: Path) -> None:
    save_file({"images": torch.zeros(1)}, file)


@pytest.mark.parametrize("damage", [cut, emptied, painted, stripped])
def test_a_damaged_file_is_reported_and_its_images_are_made_again(
    clip: VLM, tmp_path: Path, attacks: list[tuple[int, ...]], damage: Callable[[Path], None]
) -> None:
    before = run(tmp_path / "a.sqlite", clip, transferred=tmp_path / "kept")
    (file,) = (tmp_path / "kept").rglob("*.safetensors")
    damage(file)
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert run(tmp_path / "b.sqlite", clip, transferred=tmp_path / "kept") == before
    assert len(attacks) == 2
    assert run(tmp_path / "c.sqlite", clip, transferred=tmp_path / "kept") == before  # it is whole again
    assert len(attacks) == 2


def test_images_that_cannot_be_kept_cost_no_result(clip: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_transferred, "save_file", full)
    with pytest.warns(RuntimeWarning, match="transferred images are not kept.*No space left"):
        found = run(tmp_path / "a.sqlite", clip, transferred=tmp_path / "kept")
    assert found == run(tmp_path / "b.sqlite", clip)


def test_a_folder_that_is_none_is_refused_before_anything_is_measured(clip: VLM, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="it is a file, and must be a folder"):
        run(tmp_path / "a.sqlite", clip, transferred=tmp_path / "file")
    assert not (tmp_path / "a.sqlite").exists()


def test_white_box_images_are_nobody_elses(clip: VLM, tmp_path: Path) -> None:
    run(tmp_path / "a.sqlite", clip, source="self", transferred=tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("*.safetensors"))


def test_what_was_read_stays_whatever_becomes_of_the_file(clip: VLM, tmp_path: Path) -> None:
    run(tmp_path / "a.sqlite", clip, transferred=tmp_path / "kept")
    (file,) = (tmp_path / "kept").rglob("*.safetensors")
    found = _transferred._read(file, 6)
    assert found is not None
    before = [each.image.clone() for each in found]
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert all(torch.equal(each.image, image) for each, image in zip(found, before, strict=True))


def test_images_that_are_there_cost_nothing(clip: VLM, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "data": own_labels(clip, 6),
        "attack": "pgd",
        "options": {"steps": 2},
        "source": "undefended",
        "undefended": clip,
        "batch_size": 4,
        "results": tmp_path / "none.sqlite",
        "transferred": tmp_path / "kept",
    }
    candidates = {"R-Adapt": (clip, training_free(clip, alpha=0.2))}
    before = estimate_cost(candidates, **asked).units[-1]
    assert before.backwards > 0
    assert not (tmp_path / "kept").exists()  # an estimate writes nothing
    run(tmp_path / "a.sqlite", clip, transferred=tmp_path / "kept")
    after = estimate_cost(candidates, **asked).units[-1]
    assert (after.samples, after.backwards) == (before.samples, 0)
    for file in (tmp_path / "kept").rglob("*.safetensors"):
        file.unlink()
    run(tmp_path / "b.sqlite", clip, n=3, transferred=tmp_path / "kept", chunk_size=3)
    half = estimate_cost(candidates, **asked, chunk_size=3).units[-1]
    assert (half.samples, half.backwards) == (before.samples, before.backwards / 2)
    with pytest.raises(SettingsError, match="transferred takes the path of a folder, got 3"):
        estimate_cost(candidates, **{**asked, "transferred": 3})

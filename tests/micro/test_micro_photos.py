from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pytest
import torch
from tests.data.hub_files import mirror
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPModel

import radapt
from radapt.data import load_dataset
from radapt.errors import ModelError, SettingsError
from radapt.micro import _photo_augment as augmentation
from radapt.micro import photos as micro
from radapt.micro._photo_words import KINDS, Words, texts_of
from radapt.micro.clip import build_model

SMALL: dict[str, Any] = {
    "n": (9, 7), "steps": 2, "batch_size": 10, "pixels": 16, "width": 16, "depth": 1, "heads": 2, "ema": 0.5,
    "quiet": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = mirror(tmp_path / "mirror", {"train": 9}, ("wds_vtab-cifar10", "wds_vtab-caltech101"))
    monkeypatch.setenv("RADAPT_DATA", str(folder))
    return folder


def test_training_saves_an_ordinary_clip_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "photos"
    model = micro.train_photos(out, **SMALL)
    assert [path.name for path in out.parent.iterdir()] == ["photos"]  # no checkpoint is left
    again = radapt.load(out)
    pixels = load_dataset("cifar-10", split="train", n=9, size=16).pixels(range(3))
    assert torch.allclose(again.encode_image(pixels), model.encode_image(pixels), atol=0.05)
    assert again.image_size == (16, 16)
    assert (tuple(again.tower.mean), tuple(again.tower.std)) == ((0.5,) * 3, (0.25,) * 3)
    assert again.encode_text(["a photo of a tabby cat."]).shape == (1, 128)
    assert json.loads((out / "config.json").read_text())["model_type"] == "clip"
    assert isinstance(again.model, CLIPModel)


@pytest.mark.slow
def test_a_killed_training_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = micro.train_photos(tmp_path / "whole", **SMALL | {"steps": 4})
    calls = list[int]()
    compute = micro._Loss.__call__

    def dies(self: Any, step: int) -> Tensor:
        calls.append(step)
        if step == 3:
            raise KeyboardInterrupt
        return compute(self, step)

    monkeypatch.setattr(micro, "_EVERY", 2)
    with monkeypatch.context() as patch:
        patch.setattr(micro._Loss, "__call__", dies)
        with pytest.raises(KeyboardInterrupt):
            micro.train_photos(tmp_path / "killed", **SMALL | {"steps": 4})
    for other in ({"mix": 0.4}, {"seed": 1}, {"n": (8, 7)}, {"shares": (0.5, 0.5)}):
        with pytest.raises(SettingsError, match="belongs to a training with"):
            micro.train_photos(tmp_path / "killed", **SMALL | {"steps": 4} | other)
    resumed = micro.train_photos(tmp_path / "killed", **SMALL | {"steps": 4})
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name


def test_a_model_that_is_not_saved_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CLIPModel, "save_pretrained", Mock(side_effect=OSError("No space left")))
        with pytest.raises(ModelError, match="No space left"):
            micro.train_photos(tmp_path / "photos", **SMALL)
    monkeypatch.setattr(micro._Loss, "__call__", Mock(side_effect=AssertionError("trained again")))
    micro.train_photos(tmp_path / "photos", **SMALL)


def test_minutes_set_the_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[float]()
    monkeypatch.setattr(micro, "steps_within", lambda minutes, *_: asked.append(minutes) or 3)
    fit = Mock(wraps=micro.fit)
    monkeypatch.setattr(micro, "fit", fit)
    micro.train_photos(tmp_path / "photos", **SMALL, minutes=2)
    assert asked == [2]
    assert fit.call_args.args[2].steps == 3
    assert fit.call_args.args[2].max_grad_norm == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pixels": 20}, "multiple of 8"), ({"width": 15}, "multiple of 8 and width of heads"), ({"heads": 0}, "heads"),
        ({"batch_size": 0}, "batch_size"), ({"mix": 1.5}, "mix"), ({"shares": (1.0, 0.0)}, "shares"),
        ({"shares": (1.0,)}, "got 2 sets, 2 n and 1 shares"), ({"n": (9,)}, "2 sets, 1 n"), ({"seed": -1}, "seed"),
        ({"shares": (0.99, 0.01)}, "none of some sets"), ({"n": (10, 7)}, "has 9 samples, n=10"), ({"lr": 0.0}, "lr"),
        ({"data": ("cifar-10", "pets")}, "wds_vtab-pets"), ({"data": ("cifar-10", "pope")}, "pope"),
        ({"minutes": 0}, "minutes"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        micro.train_photos(tmp_path / "out" / "photos", **SMALL | wrong)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no device 'cuda:77' here"):
        micro.train_photos(tmp_path / "photos", **SMALL, device="cuda:77")


@pytest.fixture
def loss() -> Any:
    sets = [load_dataset(name, split="train", n=9, size=16) for name in ("cifar-10", "caltech-101")]
    classes = [("cat", "ship", "airplane"), ("ketch", "airplanes", "wild cat")]
    place = torch.device("cpu")
    tokenizer = micro._tokenizer(classes)
    model = build_model(len(tokenizer), pixels=16, width=16, depth=1, heads=2, tokens=24)
    texts = micro._Texts(classes, tokenizer, 0, place)
    return micro._Loss(model, micro._Images(sets, place), texts, [6, 4], 0.5, 0)


def test_a_class_that_may_be_true_of_an_image_of_another_set_is_left_out(loss: Any) -> None:
    closed = [(i, j) for i in range(6) for j in range(6) if not loss.texts.open[i, j]]
    assert closed == [(1, 3), (2, 4), (3, 1), (4, 2)]  # a ketch is a ship, airplanes are airplanes


def test_batches_have_their_shares_and_labels_in_one_numbering(loss: Any) -> None:
    pixels, labels = loss.images.batch([6, 4], torch.Generator().manual_seed(0))
    assert pixels.shape == (10, 3, 16, 16)
    grey = (pixels[:, 0, 8, 8] * 255).round().long()  # the number of the image, whose label is its rest by three
    assert labels[:6].tolist() == [int(value) % 3 for value in grey[:6]]
    assert labels[6:].tolist() == [3 + int(value) % 3 for value in grey[6:]]


def test_a_step_never_waits_for_the_device(loss: Any) -> None:
    seen = set[str]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        loss(0)
    waiting = ("local_scalar", "nonzero", "masked_select", "unique", "is_nonzero")
    assert not [name for name in seen if any(word in name for word in waiting)]
    assert any("grid_sampler" in name for name in seen)


def test_the_loss_depends_on_the_step_alone(loss: Any) -> None:
    first, second, again = loss(0), loss(1), loss(0)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert all(g is not None for g in torch.autograd.grad(first, list(loss.model.parameters())))


def test_soft_entropy_is_the_smoothed_cross_entropy_over_what_is_allowed() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 2, 2, 4])
    target = torch.eye(7)[labels]
    allowed = torch.ones(5, 7, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(micro._soft_entropy(logits, target, allowed), expected)
    allowed[:, 1] = allowed[:, 5] = False
    kept = [0, 2, 3, 4, 6]
    expected = torch.nn.functional.cross_entropy(
        logits[:, kept], torch.tensor([kept.index(label) for label in labels.tolist()]), label_smoothing=0.1
    )
    assert torch.allclose(micro._soft_entropy(logits, target, allowed), expected, atol=1e-6)


def test_the_tokenizer_knows_every_text(loss: Any) -> None:
    assert not (loss.texts.tokens == 1).any()
    assert (loss.texts.tokens == 3).any(-1).all()  # no text is cut off
    assert loss.texts.tokens.shape[:2] == (6 + len(KINDS), 64)


def test_words_are_found_by_any_name_of_a_class() -> None:
    ship = Words("ship")
    assert KINDS[ship.kind] == "vehicle"
    assert "boat" in ship.others
    assert Words("Sailboat").also == {"ketch", "ship"}
    assert (Words("zeppelin").kind, Words("zeppelin").also, Words("zeppelin").others) == (-1, set(), ())
    texts = texts_of("zeppelin", (), 200, micro.generator("test", 0))
    assert all("zeppelin" in text for text in texts)
    assert 30 < texts.count("a photo of a zeppelin.") < 80
    assert len(set(texts)) > 40


def test_augmented_images_stay_images_and_differ() -> None:
    pixels = torch.rand(40, 3, 16, 16)
    random = torch.Generator().manual_seed(1)
    changed = augmentation.augment(pixels, random)
    assert changed.shape == pixels.shape
    assert 0 <= changed.min() < changed.max() <= 1
    assert not torch.equal(changed, augmentation.augment(pixels, random))
    again = augmentation.augment(pixels, torch.Generator().manual_seed(1))
    assert torch.equal(changed, again)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_mixed_images_hold_what_their_share_says(share: float) -> None:
    zeros, ones = torch.zeros(400, 3, 16, 16), torch.ones(400, 3, 16, 16)
    pixels, kept = augmentation.mixed(ones, zeros, share, torch.Generator().manual_seed(0))
    assert torch.allclose(pixels.mean((1, 2, 3)), kept, atol=1e-5)
    assert abs((kept < 1).float().mean().item() - share) < 0.1
    if share:
        blended = ((pixels > 0) & (pixels < 1)).flatten(1).any(1)
        assert 0.3 * share < blended.float().mean() < 0.7 * share

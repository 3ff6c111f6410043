"""Shallow: deltas of the first layers, trained against an attacker who sees them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import changed_twin
from torch import Tensor

import radapt
from radapt.adapters import Adapter, adapt, data_driven, graft, shallow, training_free
from radapt.attacks import EmbeddingObjective, make
from radapt.data import Dataset
from radapt.errors import AdapterError, InputError, SettingsError
from radapt.models import VLM, LowRank, full, parts

SHORT: dict[str, Any] = {
    "layers": "embedding+block:0",
    "eps": 16 / 255,
    "attack_steps": 2,
    "batch_size": 8,
    "steps": 4,
    "quiet": True,
}


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(8, 3, 32, 32)


def harm(model: VLM, pixels: Tensor, reference: Tensor) -> float:
    """How far an attacker who sees the model as it stands moves its embeddings from the clean model's."""
    attack = make("pgd", eps=SHORT["eps"], steps=20)
    adversarial = attack(EmbeddingObjective(model.encode_image, reference), pixels, seed=1).pixels
    with torch.no_grad():
        return float((model.encode_image(adversarial) - reference).square().sum(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 4])
def test_training_makes_the_model_harder_to_fool_white_box(tiny_vlm: VLM, pixels: Tensor, rank: int | None) -> None:
    with torch.no_grad():
        reference = tiny_vlm.encode_image(pixels)
    before = harm(tiny_vlm, pixels, reference)
    settings = {**SHORT, "steps": 100, "lr": 1e-2, "cutoff": None, "clean_weight": 0, "attack_steps": 4, "rank": rank}
    adapter = shallow(tiny_vlm, pixels, **settings)
    with adapter.attach(tiny_vlm):
        after = harm(tiny_vlm, pixels, reference)
    assert after < (0.8 if rank is None else 0.95) * before
    assert adapter.settings.origin["last_loss"] < adapter.settings.origin["first_loss"]


@pytest.mark.parametrize("layers", ["embedding+block:0", "attention:1"])
def test_only_the_named_layers_have_deltas_and_the_model_stays_as_it_was(
    tiny_vlm: VLM, pixels: Tensor, layers: str
) -> None:
    before, embedding = tiny_vlm.fingerprint, tiny_vlm.encode_image(pixels)
    gradients = [parameter.requires_grad for parameter in tiny_vlm.model.parameters()]
    adapter = shallow(tiny_vlm, pixels, **{**SHORT, "layers": layers})
    above = tiny_vlm.tower.name_in(tiny_vlm.model) + "."
    assert {above + name for name in adapter.deltas} == set(parts(tiny_vlm, layers))
    assert adapter.anchor is None
    assert adapter.settings.cutoff == 0.25
    assert any(full(delta).any() for delta in adapter.deltas.values())
    assert tiny_vlm.fingerprint == before
    assert torch.equal(tiny_vlm.encode_image(pixels), embedding)
    assert [parameter.requires_grad for parameter in tiny_vlm.model.parameters()] == gradients


def test_the_loss_that_it_ends_with_is_that_of_the_adapter(tiny_vlm: VLM, pixels: Tensor) -> None:
    """What was trained is what is attached: the same filter and the same weights."""
    settings = {**SHORT, "steps": 1, "lr": 1e-9, "cutoff": 0.2}
    adapter = shallow(tiny_vlm, pixels, **settings)
    filtered = training_free(tiny_vlm, cutoff=0.2, alpha=0)
    with torch.no_grad(), filtered.attach(tiny_vlm):
        expected = tiny_vlm.encode_image(pixels)
    with torch.no_grad(), adapter.attach(tiny_vlm):
        torch.testing.assert_close(tiny_vlm.encode_image(pixels), expected, atol=1e-4, rtol=1e-4)


def test_the_clean_images_count_by_their_weight(tiny_vlm: VLM, pixels: Tensor) -> None:
    settings = {**SHORT, "steps": 1, "cutoff": 0.2}
    alone, both = (shallow(tiny_vlm, pixels, clean_weight=weight, **settings).settings.origin for weight in (0, 3))
    with torch.no_grad():
        reference = tiny_vlm.encode_image(pixels)
        with training_free(tiny_vlm, cutoff=0.2, alpha=0).attach(tiny_vlm):
            clean = (tiny_vlm.encode_image(pixels) - reference).square().sum(1).mean()
    assert both["first_loss"] == pytest.approx(alone["first_loss"] + 3 * float(clean), rel=1e-5)
    assert (alone["clean_weight"], both["clean_weight"]) == (0, 3)


def test_the_moving_average_lags_behind(tiny_vlm: VLM, pixels: Tensor) -> None:
    settings = {**SHORT, "layers": "block:0", "steps": 1}
    last, mean = (shallow(tiny_vlm, pixels, ema=ema, **settings).deltas for ema in (0, 0.75))
    for name, delta in last.items():
        torch.testing.assert_close(full(mean[name]), 0.25 * full(delta))


@pytest.mark.slow
def test_low_rank_whole_share_and_start(tiny_vlm: VLM, pixels: Tensor) -> None:
    adapter = shallow(tiny_vlm, pixels, rank=2, **{**SHORT, "layers": "block:0"})
    kinds = {name: type(delta) for name, delta in adapter.deltas.items()}
    assert kinds["encoder.layers.0.mlp.fc1.weight"] is LowRank
    assert kinds["encoder.layers.0.mlp.fc1.bias"] is Tensor
    whole = shallow(tiny_vlm, pixels, **{**SHORT, "layers": "block:0"})
    half = shallow(tiny_vlm, pixels, share=0.5, **{**SHORT, "layers": "block:0"})
    for name, delta in whole.deltas.items():
        torch.testing.assert_close(full(half.deltas[name]), 0.5 * full(delta))
    start = graft(tiny_vlm, changed_twin(tiny_vlm), weights="block:0")
    still = shallow(tiny_vlm, pixels, start=start, **{**SHORT, "layers": "block:0", "lr": 1e-12})
    assert still.settings.origin["start"] == start.fingerprint
    for name, delta in start.deltas.items():
        torch.testing.assert_close(full(still.deltas[name]), full(delta))
    with pytest.raises(AdapterError, match="the adapter to start from changes encoder"):
        shallow(tiny_vlm, pixels, start=start, **{**SHORT, "layers": "embedding"})


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_adapter(
    tiny_vlm: VLM, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radapt.adapters._adversarial import TrainingImages

    whole = shallow(tiny_vlm, pixels, **{**SHORT, "steps": 24})
    loss, calls = TrainingImages.loss, list[int]()

    def dies(self: Any, *given: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 23:
            raise KeyboardInterrupt
        return loss(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingImages, "loss", dies)
        with pytest.raises(KeyboardInterrupt):
            shallow(tiny_vlm, pixels, checkpoint=tmp_path / "c.safetensors", **{**SHORT, "steps": 24})
    again = shallow(tiny_vlm, pixels, checkpoint=tmp_path / "c.safetensors", **{**SHORT, "steps": 24})
    assert again.fingerprint == whole.fingerprint
    with pytest.raises(SettingsError, match="cutoff"):
        shallow(tiny_vlm, pixels, checkpoint=tmp_path / "c.safetensors", cutoff=0.3, **{**SHORT, "steps": 24})


def test_by_name_it_is_made_saved_and_read(tiny_vlm: VLM, pixels: Tensor, tmp_path: Path) -> None:
    made = adapt("shallow", tiny_vlm, data="objects", n=8, out=tmp_path / "a", **SHORT)
    assert not list(tmp_path.glob("*.checkpoint*"))
    assert Adapter.from_pretrained(tmp_path / "a").fingerprint == made.fingerprint


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"loss": "embeding"}, SettingsError, "did you mean 'embedding'"),
        ({"layers": "all"}, SettingsError, "outside of it; leave the head out of layers"),
        ({"layers": "blok:0"}, SettingsError, "did you mean 'block:0'"),
        ({"rank": 0}, SettingsError, "rank must be"),
        ({"share": 0}, SettingsError, "share must be"),
        ({"share": 2}, SettingsError, "share must be"),
        ({"clean_weight": -1}, SettingsError, "clean_weight must be"),
        ({"ema": 1}, SettingsError, "ema"),
        ({"eps": 0}, SettingsError, "eps must be"),
        ({"cutoff": 0}, SettingsError, "cutoff must be > 0"),
        ({"loss": "text"}, InputError, "loss='text' needs labels"),
        ({"pixels": torch.empty(0, 3, 32, 32)}, InputError, "no training images"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tiny_vlm: VLM, pixels: Tensor, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        shallow(tiny_vlm, **{"pixels": pixels, **SHORT, **settings})


def test_a_model_that_carries_an_adapter_is_refused(tiny_vlm: VLM, pixels: Tensor) -> None:
    with (
        training_free(tiny_vlm).attach(tiny_vlm),
        pytest.raises(SettingsError, match=r"carries an adapter.*radapt\.detach"),
    ):
        shallow(tiny_vlm, pixels, **SHORT)
    assert not radapt.attached(tiny_vlm)


def test_a_dataset_is_read_batch_by_batch_and_gives_the_same_adapter(
    tiny_vlm: VLM, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked = tiny_shapes(12), list[int]()
    whole = data.pixels(range(len(data)))
    read = Dataset.pixels

    def noted(self: Dataset, positions: Tensor) -> Tensor:
        asked.append(len(positions))
        return read(self, positions)

    monkeypatch.setattr(Dataset, "pixels", noted)
    for method, settings in ((shallow, SHORT), (data_driven, {"steps": 2, "attack_steps": 1, "batch_size": 8})):
        there, here = (method(tiny_vlm, images, **{**settings, "quiet": True}) for images in (data, whole))
        assert there.fingerprint == here.fingerprint
        assert there.settings.origin["images"] == 12
    assert max(asked) == 8  # the size of a batch


def test_the_one_that_ships_was_made_with_the_defaults() -> None:
    """Its card's command names no setting, so the two must not part."""
    settings = Adapter.from_pretrained("micro/shallow").settings
    defaults = {name: each.default for name, each in inspect.signature(shallow).parameters.items()}
    for name in ("loss", "layers", "eps", "steps", "lr", "weight_decay", "clean_weight", "ema", "share", "seed"):
        assert settings.origin[name] == defaults[name], name
    assert settings.origin["attack"] == f"PGD-{defaults['attack_steps']}"
    assert settings.origin["batch"] == defaults["batch_size"]
    assert settings.origin["rank"] == "full"
    assert defaults["rank"] is None
    assert settings.cutoff == defaults["cutoff"]

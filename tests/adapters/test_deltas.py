"""Deltas: weights that an adapter changes while it is on a model, exactly undone, saved, merged, and as PEFT's LoRA."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import changed_twin, tiny_clip
from torch import Tensor

import radapt
from radapt.adapters import Adapter, graft, training_free, with_shares
from radapt.adapters._base_weights import base_weights
from radapt.errors import AdapterError, ModelError, SettingsError
from radapt.models import VLM, LowRank, difference, full, interpolated, low_rank
from radapt.models import _deltas as deltas

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # of PEFT
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def twin(tiny_vlm: VLM) -> VLM:
    """The tiny CLIP with all weights of its vision encoder changed."""
    return changed_twin(tiny_vlm)


def embedded(model: VLM) -> Tensor:
    with torch.no_grad():
        return model.encode_image(PIXELS)


def state(model: VLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("weights", ["embedding+block:0", "embedding=1,block:0-1=0.5", {"attention:1": 0.25}])
def test_a_graft_is_the_model_on_the_way_to_its_twin(tiny_vlm: VLM, twin: VLM, weights: Any) -> None:
    shares = {
        "embedding+block:0": {"embedding+block:0": 1.0},
        "embedding=1,block:0-1=0.5": {"embedding": 1.0, "block:0-1": 0.5},
    }.get(weights if isinstance(weights, str) else "", weights)
    adapter = graft(tiny_vlm, twin, weights=weights)
    assert adapter.settings.origin == {"guide": "twin", "weights": shares}
    expected = embedded(interpolated(tiny_vlm, twin, shares))
    with adapter.attach(tiny_vlm):
        torch.testing.assert_close(embedded(tiny_vlm), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cutoff", [None, 0.2])
def test_detaching_is_exact_and_the_weights_stay_the_model_s_own(
    tiny_vlm: VLM, twin: VLM, cutoff: float | None
) -> None:
    before, own = embedded(tiny_vlm), state(tiny_vlm)
    objects, hash_ = dict(tiny_vlm.model.named_parameters()), tiny_vlm.fingerprint
    adapter = graft(tiny_vlm, twin, cutoff=cutoff)
    with adapter.attach(tiny_vlm):
        assert not torch.equal(embedded(tiny_vlm), before)
        assert same(state(tiny_vlm), own)
        assert same({name: each.detach() for name, each in tiny_vlm.model.state_dict(keep_vars=True).items()}, own)
        assert tiny_vlm.fingerprint == hash_
        found = radapt.adapter_of(tiny_vlm)
        assert found is not None
        assert found.fingerprint == adapter.fingerprint
        with tiny_vlm.undefended():
            assert torch.equal(embedded(tiny_vlm), before)
        assert not torch.equal(embedded(tiny_vlm), before)
    assert torch.equal(embedded(tiny_vlm), before)
    assert all(each is objects[name] for name, each in tiny_vlm.model.named_parameters())
    assert not tiny_vlm.model.vision_model._state_dict_hooks
    assert not tiny_vlm.model.vision_model._load_state_dict_pre_hooks


def test_copies_carry_the_deltas_and_give_their_own_weights_back(tiny_vlm: VLM, twin: VLM) -> None:
    before = embedded(tiny_vlm)
    adapter = graft(tiny_vlm, twin, cutoff=0.2)
    with adapter.attach(tiny_vlm):
        adapted = embedded(tiny_vlm)
        for copied in (copy.deepcopy(tiny_vlm), pickle.loads(pickle.dumps(tiny_vlm))):  # noqa: S301
            assert torch.equal(embedded(copied), adapted)
            assert radapt.detach(copied.model)
            assert torch.equal(embedded(copied), before)
        assert torch.equal(embedded(tiny_vlm), adapted)


def test_a_model_that_is_moved_while_it_carries_deltas_comes_back_as_it_was_moved(tiny_vlm: VLM, twin: VLM) -> None:
    plain = copy.deepcopy(tiny_vlm)
    plain.model.to(torch.float64)
    with graft(tiny_vlm, twin).attach(tiny_vlm):
        tiny_vlm.model.to(torch.float64)
        assert same(state(tiny_vlm), state(plain))
    assert same(state(tiny_vlm), state(plain))


def test_weights_cannot_be_loaded_into_changed_ones(tiny_vlm: VLM, twin: VLM) -> None:
    own = state(tiny_vlm)
    with graft(tiny_vlm, twin).attach(tiny_vlm), pytest.raises(AdapterError, match=r"detach the adapter first"):
        tiny_vlm.model.load_state_dict(own)
    tiny_vlm.model.load_state_dict(own)


@pytest.mark.parametrize("part", ["encoder", "encoder.layers.0", "encoder.layers.0.mlp.fc1", "embeddings"])
def test_a_part_of_the_model_is_guarded_as_the_whole_is(tiny_vlm: VLM, twin: VLM, part: str) -> None:
    module = tiny_vlm.model.vision_model.get_submodule(part)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    zeros = {name: torch.zeros_like(value) for name, value in own.items()}
    with graft(tiny_vlm, twin).attach(tiny_vlm):
        assert same(dict(module.state_dict()), own)
        with pytest.raises(AdapterError, match=r"detach the adapter first"):
            module.load_state_dict(zeros)
        with tiny_vlm.undefended():
            assert same(dict(module.state_dict()), own)
    assert same(dict(module.state_dict()), own)
    module.load_state_dict(zeros)
    assert not module._state_dict_hooks


def _step(model: VLM) -> None:
    """One step of training on all weights as they are now."""
    model.model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.model.vision_model.parameters(), lr=1e-3)
    model.encode_image(PIXELS).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.model.requires_grad_(False)


def _step_past_autograd(model: VLM) -> None:
    """As a LoRA is merged: nothing counts the change."""
    model.model.vision_model.encoder.layers[0].mlp.fc1.weight.data += 1e-3


@pytest.mark.parametrize("train", [_step, _step_past_autograd])
def test_training_what_an_adapter_changes_is_not_lost_in_silence(
    tiny_vlm: VLM, twin: VLM, train: Callable[[VLM], None]
) -> None:
    own = state(tiny_vlm)
    attachment = graft(tiny_vlm, twin, weights="block:0").attach(tiny_vlm)
    train(tiny_vlm)
    with pytest.raises(AdapterError, match=r"trained or changed with an adapter's deltas.*radapt\.detach"):
        tiny_vlm.model.state_dict()
    with pytest.warns(UserWarning, match="that is lost as the adapter is taken off"):
        attachment.detach()
    now, frozen = state(tiny_vlm), "encoder.layers.0."
    assert all(torch.equal(now[name], own[name]) for name in own if frozen in name)
    with graft(tiny_vlm, twin, weights="block:0").attach(tiny_vlm):  # training beforehand is kept, without a word
        assert same(state(tiny_vlm), now)


def test_training_of_what_has_no_deltas_is_kept(tiny_vlm: VLM, twin: VLM) -> None:
    weight = tiny_vlm.model.visual_projection.weight
    with graft(tiny_vlm, twin).attach(tiny_vlm):
        with torch.no_grad():
            weight += 1
        changed = state(tiny_vlm)
    assert same(state(tiny_vlm), changed)


def test_deltas_are_all_put_or_none(tiny_vlm: VLM, twin: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    before, hash_ = embedded(tiny_vlm), tiny_vlm.fingerprint
    adapter, whole = graft(tiny_vlm, twin), deltas.full
    seen: list[object] = []

    def failing(delta: Any, shape: Any = None) -> Tensor:
        seen.append(delta)
        if len(seen) == 3:
            raise torch.OutOfMemoryError("no memory")
        return whole(delta, shape)

    monkeypatch.setattr(deltas, "full", failing)
    with pytest.raises(torch.OutOfMemoryError):
        adapter.attach(tiny_vlm)
    monkeypatch.undo()
    assert torch.equal(embedded(tiny_vlm), before)
    assert tiny_vlm.fingerprint == hash_
    with adapter.attach(tiny_vlm):
        assert not torch.equal(embedded(tiny_vlm), before)
    assert torch.equal(embedded(tiny_vlm), before)


def test_gradients_reach_the_pixels_and_what_is_saved_is_undefended(tiny_vlm: VLM, twin: VLM, tmp_path: Path) -> None:
    pixels = PIXELS.clone().requires_grad_()
    with graft(tiny_vlm, twin, cutoff=0.2).attach(tiny_vlm):
        (gradient,) = torch.autograd.grad(tiny_vlm.encode_image(pixels).sum(), pixels)
        with pytest.warns(UserWarning, match="carries an adapter, which is not saved"):
            tiny_vlm.model.save_pretrained(tmp_path / "saved")
    assert gradient.abs().sum() > 0
    saved = type(tiny_vlm.model).from_pretrained(tmp_path / "saved")
    assert same(dict(saved.state_dict()), state(tiny_vlm))


@pytest.mark.parametrize(("cutoff", "rank"), [(None, None), (0.2, None), (0.2, 4)])
def test_what_is_saved_is_what_is_read(
    tiny_vlm: VLM, twin: VLM, tmp_path: Path, cutoff: float | None, rank: int | None
) -> None:
    adapter = graft(tiny_vlm, twin, cutoff=cutoff, rank=rank)
    adapter.save_pretrained(tmp_path)
    read = Adapter.from_pretrained(tmp_path)
    assert read.settings == adapter.settings
    assert read.fingerprint == adapter.fingerprint
    assert read.anchor is None
    with adapter.attach(tiny_vlm):
        expected = embedded(tiny_vlm)
    with read.attach(tiny_vlm):
        assert torch.equal(embedded(tiny_vlm), expected)
    assert json.loads((tmp_path / "radapt_config.json").read_text())["format"] == 2
    # An adapter of another kind takes its place whole.
    training_free(tiny_vlm).save_pretrained(tmp_path)
    assert not (tmp_path / "radapt_deltas.safetensors").exists()
    assert Adapter.from_pretrained(tmp_path).deltas == {}
    assert json.loads((tmp_path / "radapt_config.json").read_text())["format"] == 1


def test_an_anchor_and_deltas_go_together(tiny_vlm: VLM, twin: VLM, tmp_path: Path) -> None:
    anchored, grafted = training_free(tiny_vlm, alpha=0.4), graft(tiny_vlm, twin)
    both = Adapter(anchored.settings, anchored.anchor, grafted.deltas)
    assert len({each.fingerprint for each in (anchored, grafted, both)}) == 3
    both.save_pretrained(tmp_path)
    read = Adapter.from_pretrained(tmp_path)
    hybrid = interpolated(tiny_vlm, twin, {"embedding+block:0-1": 1})
    with read.attach(tiny_vlm), anchored.attach(hybrid):
        torch.testing.assert_close(embedded(tiny_vlm), embedded(hybrid))


def test_the_same_adapter_fits_the_llava_on_the_tower(tiny_vlm: VLM, twin: VLM, tiny_llava: Any) -> None:
    llava = radapt.load(tiny_llava)
    before = llava.encode_image(PIXELS)
    adapter = graft(tiny_vlm, twin)
    with adapter.attach(llava):
        assert not torch.equal(llava.encode_image(PIXELS), before)
        ours = dict(llava.tower.root.named_parameters())
        for name, parameter in twin.tower.root.named_parameters():
            if name in adapter.deltas:
                torch.testing.assert_close(ours[name], parameter)
    assert torch.equal(llava.encode_image(PIXELS), before)


def test_a_merged_model_is_a_plain_one(tiny_vlm: VLM, twin: VLM, tmp_path: Path) -> None:
    adapter, before = graft(tiny_vlm, twin), embedded(tiny_vlm)
    with adapter.attach(tiny_vlm):
        expected = embedded(tiny_vlm)
        merged = adapter.merge(tiny_vlm)  # of the model itself, whatever it carries
    assert torch.equal(embedded(merged), expected)
    assert merged.tower.mounted() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged.model.save_pretrained(tmp_path)
    assert same(dict(type(merged.model).from_pretrained(tmp_path).state_dict()), state(merged))
    assert torch.equal(embedded(tiny_vlm), before)
    filtered = graft(tiny_vlm, twin, cutoff=0.2)
    with pytest.raises(AdapterError, match="has a filter, which no weights can hold"):
        filtered.merge(tiny_vlm)
    with pytest.raises(AdapterError, match="has a filter and an anchor"):
        training_free(tiny_vlm).merge(tiny_vlm)
    assert torch.equal(embedded(filtered.change(cutoff=None).merge(tiny_vlm)), expected)


def test_low_rank_is_the_nearest_of_that_rank(tiny_vlm: VLM) -> None:
    delta = torch.randn(12, 10)
    found = low_rank(delta, 3)
    assert isinstance(found, LowRank)
    sizes = torch.linalg.svdvals(delta)
    assert torch.linalg.matrix_norm(delta - full(found)) == pytest.approx(float(sizes[3:].norm()), rel=1e-4)
    assert low_rank(delta, 6) is delta  # as many numbers as before
    assert low_rank(torch.randn(9), 1).shape == (9,)
    patches = torch.randn(12, 3, 4, 4)
    assert full(low_rank(patches, 2), patches.shape).shape == patches.shape


def test_equal_weights_make_no_delta(tiny_vlm: VLM, twin: VLM) -> None:
    ours, theirs = (dict(each.tower.root.named_parameters()) for each in (tiny_vlm, twin))
    assert difference(ours, ours) == {}
    assert difference(ours, theirs).keys() == ours.keys()
    with pytest.raises(AdapterError, match="the same weights in block:0; nothing to graft"):
        graft(tiny_vlm, tiny_vlm, weights="block:0")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"weights": "blok:0"}, SettingsError, "did you mean 'block:0'"),
        ({"weights": "block:0=2"}, SettingsError, "must be a number from 0"),
        ({"weights": "block:0=much"}, SettingsError, "neither a number nor a fraction"),
        ({"weights": ""}, SettingsError, "names no part"),
        ({"weights": None}, SettingsError, "weights must be a number, or parts"),
        ({"weights": "block:0=1,embedding+block:0-1=1"}, SettingsError, "another part both name"),
        ({"weights": "all"}, SettingsError, "is outside of it; leave the head out"),
        ({"cutoff": -1}, SettingsError, "cutoff must be > 0"),
        ({"rank": 0}, SettingsError, "rank must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tiny_vlm: VLM, twin: VLM, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        graft(tiny_vlm, twin, **settings)


def test_deltas_of_another_model_are_refused_and_leave_it_as_it_was(tiny_vlm: VLM, twin: VLM) -> None:
    adapter, before = graft(tiny_vlm, twin), embedded(tiny_vlm)
    name = next(iter(adapter.deltas))
    for strange, message in (
        ({"encoder.layers.7.mlp.fc1.weight": torch.zeros(2, 2)}, "no weight 'encoder.layers.7"),
        ({name: torch.zeros(2, 2, 2)}, "has shape .2, 2, 2., the weight .32,.; it is for another"),
    ):
        with pytest.raises(AdapterError, match=message):
            Adapter(adapter.settings, deltas=strange).attach(tiny_vlm)
        assert tiny_vlm.tower.mounted() is None
        assert torch.equal(embedded(tiny_vlm), before)
    with pytest.raises(AdapterError, match="not finite"):
        Adapter(adapter.settings, deltas={name: torch.tensor([float("nan")])})
    with pytest.raises(AdapterError, match=r"floating-point type and in memory, got torch\.int64"):
        Adapter(adapter.settings, deltas={name: torch.tensor([1])})
    with pytest.raises(AdapterError, match="matrices that do not fit"):
        Adapter(adapter.settings, deltas={name: LowRank(up=torch.zeros(4, 2), down=torch.zeros(3, 4))})
    with pytest.raises(AdapterError, match="without one alpha must be 0"):
        adapter.change(alpha=1.0)
    with pytest.raises(ModelError, match="no twins"):
        graft(tiny_vlm, tiny_clip("wide", side=48, factor=10.0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "radapt_deltas.safetensors").unlink(), "radapt_deltas.safetensors missing"),
        (lambda folder: (folder / "radapt_deltas.safetensors").write_bytes(b"x" * 99), "is not the one that"),
    ],
)
def test_damaged_deltas_are_refused(tiny_vlm: VLM, twin: VLM, tmp_path: Path, spoil: Any, message: str) -> None:
    graft(tiny_vlm, twin).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(AdapterError, match=message):
        Adapter.from_pretrained(tmp_path)


def lora(model: VLM, **settings: Any) -> Any:
    """A real LoRA of PEFT with random matrices on a copy of a model."""
    from peft import LoraConfig, get_peft_model

    chosen = {"r": 2, "lora_alpha": 6, "target_modules": r"vision_model.*(q_proj|fc1)", **settings}
    wrapped = get_peft_model(copy.deepcopy(model.model), LoraConfig(**chosen)).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    return wrapped


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"fc1": 3}, "alpha_pattern": {"fc1": 5}},
        {"alpha_pattern": {"fc1": 5, "layers.1.mlp.fc1": 40, "mlp.fc1": 60}},  # the first that fits counts
    ],
)
def test_a_lora_of_peft_does_here_what_it_does_there(tiny_vlm: VLM, tmp_path: Path, settings: dict[str, Any]) -> None:
    from peft import PeftModel

    lora(tiny_vlm, **settings).save_pretrained(tmp_path)
    wrapped: Any = PeftModel.from_pretrained(copy.deepcopy(tiny_vlm.model), str(tmp_path)).eval()
    adapter = Adapter.from_peft(tmp_path, tiny_vlm)
    assert {delta.rank for delta in adapter.deltas.values() if isinstance(delta, LowRank)} == (
        {2, 3} if "rank_pattern" in settings else {2}
    )
    with torch.no_grad():
        normal = tiny_vlm.tower.normalize(PIXELS)
        expected = wrapped.get_image_features(pixel_values=normal)
        expected = getattr(expected, "pooler_output", expected)
    with adapter.attach(tiny_vlm):
        torch.testing.assert_close(embedded(tiny_vlm), expected, atol=1e-4, rtol=1e-4)


def test_what_is_of_low_rank_goes_to_peft(tiny_vlm: VLM, tmp_path: Path) -> None:
    from peft import PeftModel

    lora(tiny_vlm).save_pretrained(tmp_path / "there")
    adapter = Adapter.from_peft(tmp_path / "there", tiny_vlm)
    uneven = dict(adapter.deltas)
    first = next(iter(uneven))
    chosen = uneven[first]
    assert isinstance(chosen, LowRank)
    uneven[first] = LowRank(up=chosen.up[:, :1], down=chosen.down[:1])
    adapter = Adapter(adapter.settings, deltas=uneven)
    adapter.save_peft(tmp_path / "back", tiny_vlm)
    wrapped = PeftModel.from_pretrained(copy.deepcopy(tiny_vlm.model), str(tmp_path / "back")).eval()
    with torch.no_grad():
        found = wrapped.get_image_features(pixel_values=tiny_vlm.tower.normalize(PIXELS))
        found = getattr(found, "pooler_output", found)
    with adapter.attach(tiny_vlm):
        torch.testing.assert_close(embedded(tiny_vlm), found, atol=1e-4, rtol=1e-4)
    assert Adapter.from_peft(tmp_path / "back", tiny_vlm).fingerprint == adapter.fingerprint


def test_what_peft_cannot_hold_is_refused(tiny_vlm: VLM, twin: VLM, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="deltas of low rank alone, and that of"):
        graft(tiny_vlm, twin).save_peft(tmp_path / "x", tiny_vlm)
    with pytest.raises(AdapterError, match="neither filter nor anchor"):
        training_free(tiny_vlm).save_peft(tmp_path / "x", tiny_vlm)
    assert not (tmp_path / "x").exists()
    for number, (settings, message) in enumerate(
        (
            ({"use_dora": True}, "use_dora=True does more"),
            ({"bias": "all"}, "bias='all' does more"),
            ({"target_modules": ["q_proj"]}, "no linear layer of the vision encoder"),  # the text encoder's, too
        )
    ):
        folder = tmp_path / str(number)
        lora(tiny_vlm, **settings).save_pretrained(folder)
        with pytest.raises(AdapterError, match=message):
            Adapter.from_peft(folder, tiny_vlm)
    with pytest.raises(AdapterError, match="cannot read the LoRA"):
        Adapter.from_peft(tmp_path / "nowhere", tiny_vlm)


def test_the_share_of_changed_weights_is_that_of_the_encoder(tiny_vlm: VLM, twin: VLM) -> None:
    encoder = dict(tiny_vlm.tower.root.named_parameters())
    adapter = radapt.graft(tiny_vlm, twin, weights="block:0", rank=1)
    block = sum(weight.numel() for name, weight in encoder.items() if name in adapter.deltas)
    assert adapter.changed(tiny_vlm) == pytest.approx(block / sum(weight.numel() for weight in encoder.values()))
    assert 0 < adapter.changed(tiny_vlm) < 1
    with adapter.attach(tiny_vlm):
        assert 0 < adapter.changed(tiny_vlm) < 1
    assert radapt.training_free(tiny_vlm).changed(tiny_vlm) == 0
    other = Adapter(adapter.settings, deltas={"no.such.weight": torch.zeros(1)})
    with pytest.raises(AdapterError, match=r"no weight 'no\.such\.weight'"):
        other.changed(tiny_vlm)


def packed(model: VLM) -> VLM:
    """The model with the linear maps of its vision encoder in 8 bits, as torch.ao packs them."""
    from torch.ao.quantization import quantize_dynamic

    twin = copy.copy(model)
    twin.model = quantize_dynamic(model.model, {torch.nn.Linear}, dtype=torch.qint8)
    return twin


def stored(model: VLM) -> VLM:
    """The model with weights of linear maps that are stored as int8, as bitsandbytes stores them."""
    twin = copy.copy(model)
    twin.model = copy.deepcopy(model.model)
    for module in twin.model.vision_model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.detach().to(torch.int8), requires_grad=False)
    return twin


quantised = pytest.mark.parametrize("quantise", [packed, stored])


@quantised
def test_deltas_of_quantised_weights_are_refused_with_what_works(tiny_vlm: VLM, twin: VLM, quantise: Any) -> None:
    adapter = graft(tiny_vlm, twin, weights="block:0").change(cutoff=0.3)
    small = quantise(tiny_vlm)
    with pytest.raises(AdapterError, match=r"few bits|of type torch\.int8") as found:
        adapter.attach(small)
    assert "merge(model)" in str(found.value)
    assert not radapt.attached(small)


def test_deltas_that_are_merged_before_it_are_quantised_and_the_rest_is_attached(tiny_vlm: VLM, twin: VLM) -> None:
    adapter = graft(tiny_vlm, twin, weights="block:0").change(cutoff=0.3)
    small = packed(adapter.change(cutoff=None, alpha=0).merge(tiny_vlm))
    rest = Adapter(adapter.settings, adapter.anchor)
    with adapter.attach(tiny_vlm):
        expected = embedded(tiny_vlm)
    without = torch.cosine_similarity(embedded(small), expected)
    with rest.attach(small):
        whole = torch.cosine_similarity(embedded(small), expected)
    assert (whole > without).all()
    assert whole.min() > 0.95
    assert not radapt.attached(small)


@quantised
def test_a_model_that_was_quantised_with_deltas_in_it_stays_defended(tiny_vlm: VLM, twin: VLM, quantise: Any) -> None:
    with graft(tiny_vlm, twin, weights="block:0").attach(tiny_vlm):
        small = quantise(tiny_vlm)
    with pytest.raises(AdapterError, match="quantised with an adapter on it"):
        radapt.detach(small)
    with pytest.raises(AdapterError, match="quantised with an adapter on it"):
        small.model.state_dict()
    assert radapt.attached(small)
    assert not radapt.attached(tiny_vlm)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_lora_that_changed_the_model_is_refused(tiny_vlm: VLM, tmp_path: Path, kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=r"vision_model.*q_proj", init_lora_weights=kind)  # type: ignore[arg-type]
    get_peft_model(copy.deepcopy(tiny_vlm.model), config).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=f"init_lora_weights='{kind}' does more than add"):
        Adapter.from_peft(tmp_path, tiny_vlm)


def test_layers_that_were_replaced_are_named(tiny_vlm: VLM, twin: VLM) -> None:
    from peft import LoraConfig, get_peft_model

    attachment = graft(tiny_vlm, twin, weights="block:0").attach(tiny_vlm)
    get_peft_model(tiny_vlm.model, LoraConfig(r=2, target_modules=r"vision_model.*q_proj"))
    with pytest.raises(AdapterError, match="no longer in their place: PEFT has wrapped"):
        attachment.detach()


def test_no_interpolation_of_a_model_whose_weights_are_changed(tiny_vlm: VLM, twin: VLM) -> None:
    with (
        graft(tiny_vlm, twin, weights="block:0").attach(tiny_vlm),
        pytest.raises(AdapterError, match="carries an adapter that changes its weights"),
    ):
        interpolated(tiny_vlm, twin, 0.5)


def test_a_part_is_named_once(tiny_vlm: VLM, twin: VLM) -> None:
    with pytest.raises(SettingsError, match="weights names a part twice"):
        graft(tiny_vlm, twin, weights="embedding=1,embedding=0.2")


def test_deltas_are_refused_on_weights_that_they_were_not_made_for(tiny_vlm: VLM, twin: VLM) -> None:
    adapter = graft(tiny_vlm, twin, weights="embedding+block:0")
    merged, other = adapter.merge(tiny_vlm), copy.deepcopy(tiny_vlm)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.copy_(weight.roll(1) * 1.1)
    for model, message in ((merged, "in them already"), (twin, "in them already"), (other, "from other weights")):
        before = embedded(model)
        for filtered in (adapter, adapter.change(cutoff=0.2)):
            with pytest.raises(AdapterError, match=message):
                filtered.attach(model)
        with pytest.raises(AdapterError, match=message):
            adapter.merge(model)
        assert not radapt.attached(model)
        assert torch.equal(embedded(model), before)
        with adapter.change(base_weights=None).attach(model):
            assert not torch.equal(embedded(model), before)
    with Adapter(adapter.change(cutoff=0.2).settings).attach(merged):  # what is left when the deltas are in the weights
        filtered = embedded(merged)
    with adapter.change(cutoff=0.2).attach(tiny_vlm):
        torch.testing.assert_close(embedded(tiny_vlm), filtered, atol=1e-5, rtol=1e-5)


def test_deltas_fit_their_weights_in_any_precision_and_after_a_little_training(tiny_vlm: VLM, twin: VLM) -> None:
    adapter = graft(tiny_vlm, twin)
    with adapter.attach(tiny_vlm):
        known = graft(tiny_vlm, twin).settings.base_weights  # that of the model's own weights
    assert known == adapter.settings.base_weights

    def trained(model: Any) -> None:
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.01 * weight.abs().mean() * torch.randn_like(weight)

    for change in (lambda model: model.to(torch.bfloat16), lambda model: model.to(torch.float64), trained):
        model = copy.deepcopy(tiny_vlm)
        change(model.model)
        with adapter.attach(model):
            assert radapt.attached(model)
    half = with_shares(adapter, tiny_vlm, {"embedding": 0.5, "block:0": 0.0})
    with half.attach(tiny_vlm):
        assert radapt.attached(tiny_vlm)
    with pytest.raises(AdapterError, match="in them already"):
        with_shares(adapter, adapter.merge(tiny_vlm), {"embedding": 0.5})


@pytest.mark.parametrize("rank", [None, 2])
def test_weights_that_lie_off_in_any_direction_are_refused(tiny_vlm: VLM, twin: VLM, rank: int | None) -> None:
    """Of equal length, and no further along the deltas: noise, and a checkpoint that was trained a little."""
    adapter = graft(tiny_vlm, twin, rank=rank)
    own = dict(tiny_vlm.tower.root.named_parameters())
    for share, fits in ((0.02, True), (0.5, False)):
        other = copy.deepcopy(tiny_vlm)
        with torch.no_grad():
            for name, weight in other.tower.root.named_parameters():
                if name in adapter.deltas:
                    change = full(adapter.deltas[name], weight.shape)
                    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
                    weight += noise / noise.norm() * change.norm() * share
                    weight *= own[name].norm() / weight.norm()
        if fits:
            with adapter.attach(other):
                assert radapt.attached(other)
        else:
            with pytest.raises(AdapterError, match="from other weights"):
                adapter.attach(other)


def test_the_sketch_is_that_of_the_weights_whatever_the_defaults_of_torch(tiny_vlm: VLM, twin: VLM) -> None:
    changes = graft(tiny_vlm, twin).deltas
    expected = base_weights(tiny_vlm.tower, changes)
    with torch.device("meta"):
        assert base_weights(tiny_vlm.tower, changes) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert base_weights(tiny_vlm.tower, changes) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_sketch_tells_the_distance_of_weights(tiny_vlm: VLM, twin: VLM) -> None:
    changes = graft(tiny_vlm, twin, weights="block:0").deltas
    sketches = [torch.tensor(base_weights(each.tower, changes)["sketch"]) for each in (tiny_vlm, twin)]
    length = sum(float(full(each).square().sum()) for each in changes.values()) ** 0.5
    assert float((sketches[0] - sketches[1]).square().mean()) ** 0.5 == pytest.approx(length, rel=0.5)


def test_what_is_said_of_the_base_weights_is_kept_and_checked(tiny_vlm: VLM, twin: VLM, tmp_path: Path) -> None:
    adapter = graft(tiny_vlm, twin, rank=2)
    adapter.save_pretrained(tmp_path)
    assert Adapter.from_pretrained(tmp_path).settings.base_weights == adapter.settings.base_weights
    assert adapter.change(base_weights=None).fingerprint == adapter.fingerprint
    config = json.loads((tmp_path / "radapt_config.json").read_text())
    whole = {"norm": 1.0, "along": 0.0}
    for wrong in (
        {"norm": 1.0}, {"norm": -1.0, "along": 0.0}, {"norm": 1.0, "along": "far"}, [1.0, 2.0],
        {**whole, "sketch": [1.0]}, {**whole, "sketch": ["far"] * 32}, {**whole, "sketch": 1.0},
    ):  # fmt: skip
        (tmp_path / "radapt_config.json").write_text(json.dumps({**config, "base_weights": wrong}))
        with pytest.raises(AdapterError, match=r"base_weights|norm|along|sketch"):
            Adapter.from_pretrained(tmp_path)
    del config["base_weights"]  # as it was written before
    (tmp_path / "radapt_config.json").write_text(json.dumps(config))
    assert Adapter.from_pretrained(tmp_path).settings.base_weights is None

"""Adapters as people really handle them: threads, trainings in between, refusals, and input that is something else."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import changed_twin, tiny_clip
from torch import Tensor, nn
from torch.nn.utils import prune

import radapt
from radapt.adapters import Adapter, graft, training_free, with_shares
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.models import VLM, LowRank

pytestmark = pytest.mark.usefixtures("unchecked")

PIXELS = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(3))
NAME = "encoder.layers.0.mlp.fc1.weight"
SHORT: dict[str, Any] = {"steps": 1, "batch_size": 4, "attack_steps": 1, "layers": "block:0", "quiet": True}


@pytest.fixture
def model() -> VLM:
    return tiny_clip(factor=4.0)


@pytest.fixture
def adapter(model: VLM) -> Adapter:
    return graft(model, changed_twin(model), weights="block:0")


def embedded(model: VLM) -> Tensor:
    with torch.no_grad():
        return model.encode_image(PIXELS)


def weight(model: VLM) -> nn.Parameter:
    return model.tower.root.get_parameter(NAME)


def test_of_two_threads_one_attaches_and_nothing_is_left(model: VLM, adapter: Adapter) -> None:
    before, state = embedded(model), {k: v.clone() for k, v in model.model.state_dict().items()}
    other = graft(model, changed_twin(model), weights="embedding+block:0-1")

    def work(own: Adapter, start: threading.Barrier, over: threading.Event, outcome: list[str]) -> None:
        start.wait()
        try:
            with own.attach(model):
                over.wait(5)
            outcome.append("attached")
        except AdapterError as error:
            outcome.append(str(error))
        over.set()

    for _ in range(20):
        outcome = list[str]()
        shared = threading.Barrier(2), threading.Event(), outcome
        threads = [threading.Thread(target=work, args=(each, *shared)) for each in (adapter, other)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(outcome)[0] == "attached"
        assert "already carries an adapter" in sorted(outcome)[1]
        assert not radapt.attached(model)
    assert torch.equal(embedded(model), before)
    assert all(torch.equal(state[name], value) for name, value in model.model.state_dict().items())


TRAININGS: dict[str, Callable[[nn.Parameter], object]] = {
    "flipped": lambda own: own.copy_(own.flip(0)),
    "negated": lambda own: own.neg_(),
    "a step": lambda own: own.sub_(0.01 * own),
}


@pytest.mark.parametrize("kind", [None, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", TRAININGS)
def test_no_training_is_lost_in_silence(model: VLM, adapter: Adapter, kind: torch.dtype | None, training: str) -> None:
    expected = weight(model).detach().clone()
    adapter.attach(model)
    if kind is not None:
        model.model.to(kind)
    with torch.no_grad():
        TRAININGS[training](weight(model))
    with pytest.raises(AdapterError, match="trained or changed"):
        model.model.state_dict()
    with pytest.warns(UserWarning, match="trained or changed"):
        radapt.detach(model)
    assert torch.equal(weight(model), expected.to(weight(model)))


@pytest.mark.parametrize("path", [[torch.float16], [torch.float16, torch.float32], [torch.bfloat16, torch.float32]])
def test_rounding_is_no_training(model: VLM, adapter: Adapter, path: list[torch.dtype]) -> None:
    own = weight(model).detach().clone()
    with adapter.attach(model):
        for kind in path:
            model.model.to(kind)
            state = model.model.state_dict()  # of the model's own weights
            assert torch.equal(state[f"vision_model.{NAME}"], own.to(kind))
    assert weight(model).dtype == path[-1]


def test_detaching_follows_what_became_of_gradients(model: VLM, adapter: Adapter) -> None:
    model.model.requires_grad_(True)
    model.encode_image(PIXELS).sum().backward()
    with adapter.attach(model):
        assert weight(model).grad is not None
        model.model.zero_grad()
        model.model.requires_grad_(False)
    assert weight(model).grad is None
    assert not any(each.requires_grad for each in model.model.parameters())


def test_detaching_is_done_before_a_warning_that_is_an_error(model: VLM, adapter: Adapter) -> None:
    expected = embedded(model)
    adapter.attach(model)
    with torch.no_grad():
        weight(model).neg_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="trained or changed"):
            adapter.detach()
    assert not radapt.attached(model)
    assert torch.equal(embedded(model), expected)


def test_a_refused_detaching_is_asked_for_again(model: VLM, adapter: Adapter) -> None:
    other, before = tiny_clip(seed=0, factor=4.0), embedded(model)
    for each in (model, other):
        adapter.attach(each)
    layer = model.tower.root.get_submodule(NAME.removesuffix(".weight"))
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    with pytest.raises(AdapterError, match="computed from others since, as by pruning"):
        adapter.detach()
    prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    with pytest.warns(UserWarning, match="trained or changed"):  # pruned, that is
        adapter.detach()
    adapter.detach()
    assert not radapt.attached(model)
    assert not radapt.attached(other)
    assert torch.equal(embedded(model), before)


def test_an_input_defence_stays_where_the_adapter_cannot_be_taken_off(model: VLM, adapter: Adapter) -> None:
    defence = radapt.InputDefence(lambda x: (x * 15).round() / 15)
    with defence.attach(model):
        transform = model.input_transform
        attachment = adapter.attach(model)
        layer = model.tower.root.get_submodule(NAME.removesuffix(".weight"))
        prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
        with pytest.raises(AdapterError), model.undefended():
            pass
        assert model.input_transform is transform is not None
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
        with pytest.warns(UserWarning, match="trained or changed"):
            attachment.detach()


def test_one_attachment_is_of_one_block(model: VLM, adapter: Adapter) -> None:
    with adapter.attach(model) as attachment:
        with pytest.raises(AdapterError, match="in a with block already"), attachment:
            pass
        assert radapt.attached(model)


def test_sums_that_overflow_are_refused(model: VLM) -> None:
    settings = graft(model, changed_twin(model)).change(base_weights=None).settings
    shape = weight(model).shape
    huge = Adapter(settings, deltas={NAME: torch.full(shape, 7e4)})
    with huge.attach(model):
        pass  # in float32 it fits
    half = tiny_clip(factor=4.0)
    half.model.half()
    low = LowRank(up=torch.full((shape[0], 1), 1e30), down=torch.full((1, shape[1]), 1e30))
    for each, own in ((half, huge), (model, Adapter(settings, deltas={NAME: low}))):
        for act in (own.attach, own.merge):
            with pytest.raises(AdapterError, match=r"fc1\.weight and its delta have a sum that is not finite"):
                act(each)
            assert not radapt.attached(each)


def test_two_matrices_are_no_weight_of_as_many_numbers(model: VLM) -> None:
    settings = graft(model, changed_twin(model)).change(base_weights=None).settings
    up, down = torch.randn(32, 16), torch.randn(16, 32)
    name = "encoder.layers.0.self_attn.q_proj.weight"
    whole = torch.cat([up.flatten(), down.flatten()]).view(32, 32)
    first, second = (Adapter(settings, deltas={name: each}) for each in (LowRank(up=up, down=down), whole))
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("make", ["training_free", "model_guided"])
def test_an_anchor_is_of_images_in_the_range_of_images(model: VLM, make: str) -> None:
    given = (model,) if make == "training_free" else (model, changed_twin(model))
    for wrong, message in (
        (PIXELS * 255, r"must lie in \[0, 1\]"),
        ((PIXELS * 255).to(torch.uint8), "divide bytes by 255"),
        (PIXELS * float("nan"), "contain NaN"),
        (PIXELS[:, :, :32], "must be N x 3 x 48 x 48"),
        (3, "the images of a mean image"),
    ):
        with pytest.raises(InputError, match=message):
            getattr(radapt, make)(*given, image="mean", pixels=wrong)
    listed = getattr(radapt, make)(*given, image="mean", pixels=list(PIXELS))
    assert listed.fingerprint == getattr(radapt, make)(*given, image="mean", pixels=PIXELS).fingerprint


@pytest.mark.parametrize("make", [radapt.shallow, radapt.data_driven])
def test_training_images_are_of_the_model_s_size(model: VLM, make: Any) -> None:
    settings = {key: value for key, value in SHORT.items() if make is radapt.shallow or key != "layers"}
    with pytest.raises(ModelError, match="48 x 48 pixels, got 64 x 64; read the dataset in that size"):
        make(model, torch.rand(4, 3, 64, 64), **settings)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode, pytest.raises(SettingsError, match="needs gradients"):
            make(model, PIXELS, **settings)
    assert make("micro/clip", PIXELS, **settings).settings.base_model == "micro/clip"
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(InputError, match="classifier must be a tensor"):
        make(model, PIXELS, labels, classifier=["a photo of a cat"], loss="text", **settings)


def test_a_start_has_deltas_and_nothing_that_would_be_left_out(model: VLM, adapter: Adapter, tmp_path: Path) -> None:
    anchor = training_free(model)
    with pytest.raises(AdapterError, match="has no deltas to begin with"):
        radapt.shallow(model, PIXELS, start=anchor, **SHORT)
    both = Adapter(anchor.change(base_weights=adapter.settings.base_weights).settings, anchor.anchor, adapter.deltas)
    with pytest.raises(AdapterError, match="has an anchor, which this training would leave out"):
        radapt.shallow(model, PIXELS, start=both, **SHORT)
    adapter.save_pretrained(tmp_path)
    made = radapt.shallow(model, PIXELS, start=tmp_path, **SHORT)
    assert made.settings.origin["start"] == adapter.fingerprint


def test_shares_are_of_what_is_there(model: VLM, adapter: Adapter) -> None:
    for wrong, message in (
        ({"block:1": 0.5}, "no deltas in 'block:1'"),
        ({"all": 2}, "the share of all must be a number"),
        ({"all": -1}, "the share of all must be a number"),
        ({"all": "x"}, "the share of all must be a number"),
        ({1: 0.5}, "parts of a vision encoder are one text"),
    ):
        with pytest.raises(SettingsError, match=message):
            with_shares(adapter, model, wrong)  # type: ignore[arg-type]
    for nothing in (0, "block:0=0"):
        with pytest.raises(SettingsError, match="are 0, the model itself"):
            graft(model, changed_twin(model), weights=nothing)  # type: ignore[arg-type]


def test_a_model_object_or_its_name_is_merged(model: VLM, adapter: Adapter) -> None:
    with pytest.warns(UserWarning, match="image processor"):
        merged = adapter.merge(model.model)
    assert torch.equal(weight(merged), weight(adapter.merge(model)))
    shipped = Adapter.from_pretrained("micro/shallow").change(cutoff=None)
    assert shipped.merge("micro/clip").name.startswith("micro/clip with")


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([1], "given by the names of weights"),
        ({3: torch.zeros(2)}, "by its name in the vision encoder; got 3"),
        ({"": torch.zeros(2)}, "by its name"),
        ({"x.lora_A": torch.zeros(2)}, "by its name"),
        ({"__metadata__": torch.zeros(2)}, "by its name"),
        ({"x": torch.zeros(2).numpy()}, "must be a tensor or a LowRank"),
        ({"x": torch.zeros(2, device="meta")}, "in memory"),
        ({"x": LowRank(up=torch.zeros(2, 0), down=torch.zeros(0, 2))}, "do not fit"),
        ({"x": LowRank(up=torch.zeros(2, 3), down=torch.zeros(2, 2))}, "do not fit"),
    ],
)
def test_what_are_no_deltas_is_refused(adapter: Adapter, deltas: Any, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        Adapter(adapter.settings, deltas=deltas)


def test_what_is_no_adapter_or_folder_is_refused(model: VLM, adapter: Adapter, tmp_path: Path) -> None:
    made = training_free(model)
    assert made.anchor is not None
    for wrong in (made.anchor.numpy(), made.anchor.to("meta")):
        with pytest.raises(AdapterError, match="the anchor must be a tensor in memory"):
            Adapter(made.settings, wrong)
    with pytest.raises(AdapterError, match="the settings of an adapter"):
        Adapter({})  # type: ignore[arg-type]
    for call in (adapter.save_pretrained, lambda where: adapter.save_peft(where, model)):
        for where in (None, 3):
            with pytest.raises(AdapterError, match="in a folder, given by its path"):
                call(where)  # type: ignore[operator]
    with pytest.raises(AdapterError, match="in a folder"):
        Adapter.from_peft(None, model)  # type: ignore[arg-type]
    made.anchor.mul_(float("nan"))
    with pytest.raises(AdapterError, match="values that are not finite"):
        made.save_pretrained(tmp_path / "nan")


def test_what_shares_memory_is_saved_all_the_same(model: VLM, adapter: Adapter, tmp_path: Path) -> None:
    settings = adapter.change(base_weights=None).settings
    names = [f"encoder.layers.0.self_attn.{each}_proj.weight" for each in "qk"]
    whole, down = torch.randn(32, 32), torch.randn(2, 32)
    for deltas in (
        dict.fromkeys(names, whole),
        {name: LowRank(up=torch.randn(32, 2), down=down) for name in names},
    ):
        made = Adapter(settings, deltas=deltas)
        made.save_pretrained(tmp_path)
        assert Adapter.from_pretrained(tmp_path).fingerprint == made.fingerprint
    made.save_peft(tmp_path / "lora", model)
    assert set(Adapter.from_peft(tmp_path / "lora", model).deltas) == set(names)


def test_a_lora_for_another_model_names_what_is_missing(model: VLM, adapter: Adapter, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    del other.tower.root.encoder.layers[0].mlp.fc1
    low = graft(model, changed_twin(model), weights="attention:0", rank=2)
    matrices = {name: delta for name, delta in low.deltas.items() if not isinstance(delta, Tensor)}
    made = Adapter(low.change(base_weights=None).settings, deltas=matrices)
    deeper = Adapter(
        made.settings, deltas={name.replace("layers.0", "layers.7"): delta for name, delta in matrices.items()}
    )
    with pytest.raises(AdapterError, match=r"has no weight 'encoder\.layers\.7"):
        deeper.save_peft(tmp_path, model)

"""What a server does with an adapted model: threads, compilers, exporters, copies, other processes, other libraries."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import jaxtyping
import pytest
import torch
from tests.models.generative import llava_parts, qwen_parts
from tests.models.openclip import open_clip
from tests.tiny import SHAPE, lively, tiny_clip
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

import radapt
from radapt.adapters import Adapter, adapter_of, attached, detach, gaussian_filter, training_free
from radapt.errors import AdapterError, InputError, ModelError
from radapt.models import tower_of
from radapt.models.qwen_vl import patchify as pack
from radapt.models.qwen_vl import qwen_vl
from radapt.models.siglip2 import patchify

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

SIDEWAYS, UPRIGHT = (48, 96), (96, 48)
"""Two sizes with one number of patches."""


class Images(nn.Module):
    """The vision encoder of a model as a function of images, so that all families are run alike."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, images: Tensor) -> Tensor:
        model: Any = self.model
        if self.kind == "open_clip":
            result: Tensor = model.visual(images)
        elif self.kind == "siglip2":
            grid = torch.tensor([[images.shape[2] // 8, images.shape[3] // 8]] * len(images))
            patches = patchify(images, 8)
            result = model.vision_model(patches, torch.ones(patches.shape[:2], dtype=torch.int32), grid).pooler_output
        elif self.kind.startswith("qwen"):
            grid = torch.tensor([[1, images.shape[2] // 8, images.shape[3] // 8]] * len(images))
            result = model.model.visual(pack(images, 2, 8, 2), grid_thw=grid).pooler_output
        else:
            root = model.model.vision_tower if self.kind == "llava" else model.vision_model
            other = images.shape[2] != root.config.image_size or images.shape[3] != root.config.image_size
            result = root(pixel_values=images, interpolate_pos_encoding=other).last_hidden_state
        return result


@dataclass(frozen=True)
class Family:
    """How a model of a family is built, and what images it takes."""

    build: Callable[[], Any]
    sizes: tuple[tuple[int, int], ...] = (SIDEWAYS, UPRIGHT)
    whole: bool = True
    """Whether its encoder can be traced as a whole: it can not where shapes of images are values of a tensor."""


def siglip() -> Any:
    config = SiglipConfig(
        vision_config={**SHAPE, "image_size": 48, "patch_size": 8}, text_config={**SHAPE, "vocab_size": 60}
    )
    return lively(SiglipModel(config))


def siglip2() -> Any:
    config = Siglip2Config(
        vision_config={**SHAPE, "num_patches": 36, "patch_size": 8}, text_config={**SHAPE, "vocab_size": 60}
    )
    return lively(Siglip2Model(config))


def live_open_clip() -> Any:
    vision = {"image_size": (48, 96), "layers": 2, "width": 128, "patch_size": 8}
    text = {"context_length": 12, "vocab_size": 80, "width": 64, "heads": 4, "layers": 2}
    return open_clip().CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval().requires_grad_(False)


FAMILIES = {
    "clip": Family(lambda: tiny_clip(factor=10.0).model),
    "siglip": Family(siglip),
    "siglip2": Family(siglip2, whole=False),
    "llava": Family(lambda: llava_parts()[0]),
    "qwen2_5_vl": Family(lambda: qwen_parts(False)[0], whole=False),
    "qwen3_vl": Family(lambda: qwen_parts(True)[0], whole=False),
    "open_clip": Family(live_open_clip, sizes=((48, 96),)),
}
every = pytest.mark.parametrize("kind", FAMILIES)
traced = pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if family.whole])


def built(kind: str) -> tuple[Images, Adapter]:
    """A model that carries an adapter, and the adapter."""
    torch.manual_seed(0)
    images = Images(FAMILIES[kind].build(), kind)
    adapter = training_free(images.model, alpha=0.6)
    adapter.attach(images.model)
    return images, adapter


def shown(kind: str, n: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, 3, *size, generator=generator) for size in FAMILIES[kind].sizes]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the tests' run-time checks of signatures, which a compiler cannot trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-3)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
@every
def test_eight_threads_get_what_one_gets(kind: str) -> None:
    model, _ = built(kind)
    batches = [*shown(kind), *shown(kind, 1)]
    with torch.no_grad():
        expected = [model(each) for each in batches]
    fresh = copy.deepcopy(model)  # whose adapter has placed nothing yet
    barrier = Barrier(8)

    def serve(worker: int) -> list[tuple[int, Tensor]]:
        barrier.wait()
        with torch.no_grad():
            return [(i % len(batches), fresh(batches[i % len(batches)])) for i in range(worker, worker + 8)]

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for answers in pool.map(serve, range(8)) for answer in answers]
    assert len(answers) == 64
    assert all(torch.equal(got, expected[which]) for which, got in answers)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@every
def test_a_block_that_runs_again_in_the_backward_pass_has_the_images_of_its_own_pass(kind: str) -> None:
    model, _ = built(kind)
    batches = [each.requires_grad_() for each in [*shown(kind), *shown(kind, 1)]]

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum(model(each).square().sum() for each in batches), batches)

    expected = gradients()
    if kind == "open_clip":
        model.model.visual.set_grad_checkpointing()
    else:
        root: Any = tower_of(model.model).root
        root.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # the models' own switch works in training mode alone; there is no dropout here
    assert all(torch.equal(*pair) for pair in zip(gradients(), expected, strict=True))


@pytest.mark.parametrize("sizes", [(UPRIGHT, SIDEWAYS), ((48, 48), UPRIGHT), (SIDEWAYS, (64, 64), UPRIGHT)])
def test_checkpointing_with_images_of_several_sizes_before_one_backward_pass(sizes: Any) -> None:
    vlm = qwen_vl("q", *qwen_parts(True))
    training_free(vlm, alpha=0.6).attach(vlm)
    batches = [torch.rand(1, 3, *size, requires_grad=True) for size in sizes]

    def gradients() -> tuple[Tensor, ...]:
        losses = [vlm.answer_loss(each, ["what shape is it?"], ["star"]).sum() for each in batches]
        return torch.autograd.grad(sum(losses), batches)

    expected = gradients()
    vlm.gradient_checkpointing = True
    assert all(torch.equal(*pair) for pair in zip(gradients(), expected, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("restless")
def test_threads_may_checkpoint_one_model() -> None:
    vlm = qwen_vl("q", *qwen_parts(True))
    training_free(vlm, alpha=0.6).attach(vlm)
    batches = [torch.rand(1, 3, *size) for size in (UPRIGHT, SIDEWAYS)]

    def gradient(which: int) -> Tensor:
        pixels = batches[which % 2].clone().requires_grad_()
        loss = vlm.answer_loss(pixels, ["what shape is it?"], ["star"]).sum()
        return torch.autograd.grad(loss, pixels)[0]

    expected = [gradient(which) for which in range(2)]
    vlm.gradient_checkpointing = True
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(gradient, range(24)))
    assert all(torch.equal(each, expected[which % 2]) for which, each in enumerate(got))
    assert not any("forward" in vars(module) for module in vlm.model.modules())


@every
@pytest.mark.parametrize("first", ["inference", "gradient"])
def test_inference_mode_and_gradients_in_either_order(kind: str, first: str) -> None:
    model, _ = built(kind)
    expected = [model(each) for each in shown(kind)]
    fresh = copy.deepcopy(model)

    def infer() -> None:
        with torch.inference_mode():
            assert all(torch.equal(fresh(each), one) for each, one in zip(shown(kind), expected, strict=True))

    if first == "inference":
        infer()
    for each in shown(kind):
        (gradient,) = torch.autograd.grad(fresh(each.requires_grad_()).square().sum(), each)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    infer()


def test_an_adapter_that_was_made_in_inference_mode_is_an_ordinary_one(tmp_path: Path) -> None:
    model = FAMILIES["clip"].build()
    with torch.inference_mode():
        adapter = training_free(model)
        adapter.save_pretrained(tmp_path)
        read = Adapter.from_pretrained(tmp_path)
    for each in (adapter, read):
        assert not each.anchor.is_inference()
        with each.attach(model):
            pixels = torch.rand(1, 3, 48, 48, requires_grad=True)
            model.vision_model(pixel_values=pixels).pooler_output.sum().backward()
        assert pixels.grad is not None


@every
def test_autocast_rounds_and_leaves_nothing_behind(kind: str) -> None:
    model, _ = built(kind)
    fresh = copy.deepcopy(model)
    for each in shown(kind):
        with torch.no_grad():
            exact = model(each)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = fresh(each)
            assert torch.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.98
            assert torch.equal(fresh(each), exact)


def fakes() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize("mode", [fakes, lambda: torch.device("meta"), torch.inference_mode])
@pytest.mark.parametrize("cutoff", [0.31, 0.32])
def test_matrices_that_are_kept_belong_to_no_mode(mode: Any, cutoff: float) -> None:
    images = torch.rand(1, 3, 40, 56)
    for method in ("separable", "fft"):
        with mode():
            gaussian_filter(images, cutoff, method=method)
        after = gaussian_filter(images.clone().requires_grad_(), cutoff, method=method)
        assert type(after) is Tensor
        assert torch.allclose(after.mean((2, 3)), images.mean((2, 3)), atol=1e-5)
        after.sum().backward()


@pytest.mark.parametrize("kind", ["clip", "llava", "open_clip"])
def test_transforms_of_functions_leave_nothing_behind(kind: str) -> None:
    model, _ = built(kind)
    expected = model(shown(kind)[0])
    fresh, images = copy.deepcopy(model), shown(kind)[0]
    slope = torch.func.grad(lambda x: fresh(x).square().sum())(images)
    assert torch.equal(fresh(images), expected)
    leaf = images.clone().requires_grad_()
    assert torch.allclose(slope, torch.autograd.grad(fresh(leaf).square().sum(), leaf)[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "llava", "open_clip"])
def test_fake_tensors_leave_nothing_behind(kind: str) -> None:
    model, _ = built(kind)
    expected = [model(each) for each in shown(kind)]
    fresh = copy.deepcopy(model)
    with fakes():
        fake = fresh(shown(kind)[0])
    assert type(fake) is not Tensor
    assert all(torch.equal(fresh(each), one) for each, one in zip(shown(kind), expected, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@traced
def test_a_compiler_takes_the_whole_model(kind: str) -> None:
    model, _ = built(kind)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for each in (*shown(kind), *shown(kind, 1)):
        assert torch.allclose(compiled(each), model(each), atol=1e-3)
    leaf = shown(kind)[0].requires_grad_()
    # (The sum of squares after a layer norm hardly depends on anything.)
    weights = torch.linspace(-1, 1, model(leaf).shape[-1])
    got, expected = (torch.autograd.grad((run(leaf) * weights).sum(), leaf)[0] for run in (compiled, model))
    assert (got - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
@traced
def test_an_export_in_a_fresh_process_holds_the_adapter_and_leaves_the_models_alone(kind: str, strict: bool) -> None:
    script = f"""
        import warnings, torch
        from tests.adapters.test_serving import built, shown
        warnings.simplefilter("ignore")  # what torch has to say about transformers
        torch.set_num_threads(1)
        (model, adapter), batches = built({kind!r}), shown({kind!r})
        programs = [torch.export.export(model, (each,), strict={strict}) for each in batches]
        other = built({kind!r})[0]
        for program, each in zip(programs, batches):
            assert type(model(each)) is torch.Tensor
            assert torch.equal(model(each), other(each))
            assert torch.allclose(program.module()(each), other(each), atol=1e-3)
            adapted = other(each)
            with_less = adapter.change(alpha=0.1)
            adapter.detach()
            with with_less.attach(model.model):
                assert not torch.allclose(model(each), adapted, atol=1e-3)
            adapter.attach(model.model)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["siglip2", "qwen2_5_vl", "qwen3_vl"])
def test_a_model_that_takes_shapes_as_a_tensor_is_compiled_in_parts(kind: str) -> None:
    model, _ = built(kind)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    assert all(torch.allclose(compiled(each), model(each), atol=1e-3) for each in shown(kind))


@pytest.mark.parametrize("kind", ["siglip2", "qwen2_5_vl", "qwen3_vl"])
def test_a_model_that_takes_shapes_as_a_tensor_is_not_exported(kind: str) -> None:
    model, _ = built(kind)
    images = shown(kind)[0]
    expected = model(images)
    with pytest.raises(ModelError, match="cannot be exported with an adapter"):
        torch.export.export(model, (images,), strict=False)
    assert torch.equal(model(images), expected)


@every
def test_a_deep_copy_shares_nothing(kind: str) -> None:
    model, adapter = built(kind)
    expected = [model(each) for each in shown(kind)]
    twin = copy.deepcopy(model)
    mine, its = adapter_of(model.model), adapter_of(twin.model)
    assert mine is not None
    assert its is not None
    assert mine.anchor is adapter.anchor
    assert its.anchor.data_ptr() != adapter.anchor.data_ptr()
    its.anchor.zero_()
    assert all(torch.equal(model(each), one) for each, one in zip(shown(kind), expected, strict=True))
    assert not torch.allclose(twin(shown(kind)[0]), expected[0], atol=1e-4)
    assert detach(model.model)
    assert attached(twin.model)
    assert detach(twin.model)
    assert all(torch.equal(model(each), twin(each)) for each in shown(kind))


def test_an_anchor_that_is_changed_in_place_counts_at_once() -> None:
    model, adapter = built("clip")
    images = shown("clip")[0]
    before = model(images)
    adapter.anchor.mul_(2)
    changed = model(images)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(copy.deepcopy(model)(images), changed)


@every
@pytest.mark.parametrize("way", ["pickle", "torch.save"])
def test_a_pickled_model_is_defended(kind: str, way: str) -> None:
    model, _ = built(kind)
    expected = [model(each) for each in shown(kind)]
    if way == "pickle":
        other = pickle.loads(pickle.dumps(model))  # noqa: S301
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert all(torch.equal(other(each), one) for each, one in zip(shown(kind), expected, strict=True))
    assert detach(other.model)
    assert attached(model.model)


def test_a_pickled_vlm_is_defended() -> None:
    vlm = tiny_clip(factor=10.0)
    training_free(vlm).attach(vlm)
    pixels = torch.rand(1, 3, 48, 48)
    other = pickle.loads(pickle.dumps(vlm))  # noqa: S301
    assert other.defended
    assert torch.equal(other.encode_image(pixels), vlm.encode_image(pixels))


def _serve(model: Images, images: list[Tensor], queue: Any) -> None:
    """In another process: the answers, before and after somebody else adds hooks of his own."""
    torch.set_num_threads(1)
    root, seen = tower_of(model.model).root, []
    first = [model(each).detach() for each in images]
    handles = [root.register_forward_pre_hook(lambda *_: seen.append(1)) for _ in range(40)]
    second = [model(each).detach() for each in images]
    for handle in handles:
        handle.remove()
    third = [model(each).detach() for each in images]
    queue.put([[each.numpy() for each in answers] for answers in (first, second, third)])
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "qwen3_vl"])
def test_a_spawned_process_has_the_defence_whatever_else_is_hooked_there(kind: str) -> None:
    model, _ = built(kind)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_serve, args=(model, shown(kind), queue))
    process.start()
    answers = queue.get(timeout=120)
    process.join()
    for answer in answers:
        for got, each in zip(answer, shown(kind), strict=True):
            assert torch.equal(torch.from_numpy(got), model(each))


@every
def test_replicas_of_data_parallel_are_defended(kind: str) -> None:
    model, _ = built(kind)
    images = shown(kind)[0]
    expected = model(images)
    assert torch.equal(nn.DataParallel(model)(images), expected)
    # What replicate() does for each accelerator: modules that share their hooks, here with the weights too.
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}  # type: ignore[operator]
    for module, replica in replicas.items():
        replica._parameters = dict(module._parameters)
        replica._modules = {name: replicas[child] for name, child in module._modules.items() if child is not None}
    assert torch.equal(replicas[model](images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "llava", "qwen3_vl"])
@pytest.mark.parametrize("first", ["adapter", "accelerate"])
def test_accelerate_and_adapters_share_a_model(kind: str, first: str) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import ModelHook, add_hook_to_module

    model, adapter = built(kind)
    images = torch.rand(2, 3, 48, 48)
    expected = model(images)
    for how in ("hooks", "offload"):
        model, _ = built(kind)
        if first == "accelerate":
            detach(model.model)
        if how == "offload":
            cpu_offload(model.model, execution_device=torch.device("cpu"))
        else:
            for module in (tower_of(model.model).root, *tower_of(model.model).blocks):
                add_hook_to_module(module, ModelHook())
        if first == "accelerate":
            made = training_free(model.model, alpha=0.6)
            assert torch.equal(made.anchor, adapter.anchor)
            made.attach(model.model)
        with torch.no_grad():
            assert torch.equal(model(images), expected)
        assert detach(model.model)


def test_checkpointing_keeps_the_hooks_of_accelerate() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    vlm = qwen_vl("q", *qwen_parts(True))
    vlm.gradient_checkpointing = True
    for block in vlm.tower.blocks:
        add_hook_to_module(block, ModelHook())
    before = [vars(block)["forward"] for block in vlm.tower.blocks]
    pixels = torch.rand(1, 3, 48, 48, requires_grad=True)
    vlm.answer_loss(pixels, ["what shape is it?"], ["star"]).sum().backward()
    assert [vars(block).get("forward") for block in vlm.tower.blocks] == before


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = FAMILIES["clip"].build()
    with pytest.raises(AdapterError, match="no weights"):
        training_free(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", ["clip", "siglip", "open_clip"])
@pytest.mark.parametrize("first", ["adapter", "quantisation"])
def test_a_quantised_model_carries_an_adapter(kind: str, first: str) -> None:
    from torch.ao.quantization import quantize_dynamic

    model, adapter = built(kind)
    expected = [model(each) for each in shown(kind)]
    with torch.no_grad():
        if first == "quantisation":
            detach(model.model)
        small = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        if first == "quantisation":
            adapter.attach(small.model)
            assert not attached(model.model)
        for each, one in zip(shown(kind), expected, strict=True):
            assert torch.cosine_similarity(small(each).flatten(), one.flatten(), dim=0) > 0.9
        own = training_free(quantize_dynamic(FAMILIES[kind].build(), {nn.Linear}, dtype=torch.qint8))
        assert own.anchor.isfinite().all()


@pytest.mark.parametrize("size", [(96, 48), (48, 48), (24, 192)])
def test_an_encoder_of_one_size_refuses_others(size: tuple[int, int]) -> None:
    model, _ = built("open_clip")
    with pytest.raises(InputError, match=r"takes images of 6 x 12 patches of 8 pixels, got \(1, 3,"):
        model(torch.rand(1, 3, *size))


@pytest.mark.parametrize("kind", ["clip", "siglip", "qwen3_vl"])
def test_blocks_without_their_encoder_are_refused(kind: str) -> None:
    model, _ = built(kind)
    block, seen = tower_of(model.model).blocks[0], {}
    handle = block.register_forward_pre_hook(lambda m, a, k: seen.update(args=a, kwargs=k), with_kwargs=True)
    model(shown(kind)[0])
    handle.remove()
    given = {key: value for key, value in seen["kwargs"].items() if not key.startswith("radapt")}
    with pytest.raises(AdapterError, match="without the vision encoder around it"):
        block(*seen["args"], **given)


def test_the_anchor_is_taken_from_its_own_pass() -> None:
    model = FAMILIES["clip"].build()
    expected = training_free(model).anchor
    stop: list[bool] = []

    def serve() -> None:
        with torch.no_grad():
            while not stop:
                model.vision_model(pixel_values=torch.rand(1, 3, 48, 48))

    with ThreadPoolExecutor(2) as pool:
        pool.submit(serve)
        anchors = [radapt.training_free(model).anchor for _ in range(4)]
        stop.append(True)
    assert all(torch.equal(each, expected) for each in anchors)

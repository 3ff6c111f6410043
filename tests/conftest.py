"""What every test shares: checked signatures, no network, a private cache, one thread, fixed seeds."""

from __future__ import annotations

import atexit
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, Self, get_origin, runtime_checkable

import hypothesis
import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

from radapt import types

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Terminal output is compared as text: the same width and no colours, whoever runs the tests.
os.environ["COLUMNS"] = "120"
os.environ["NO_COLOR"] = "1"
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)

# No test asserts on the clock, which a busy machine slows down.
hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no clock")

# A new cache for each run, so that no picture of an older version is ever read. The workers of a parallel run and
# the commands that tests start inherit the variable: what one of them renders, all of them use.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="radapt-tests-")
    atexit.register(_cache.cleanup)
    os.environ["RADAPT_CACHE"] = _cache.name

# An int is a float, as for mypy; Self has no meaning to a checker that sees one method at a time. A word out of a list
# is a text: that wrong ones are refused, with the library's own message, is what tests try.
_words = {hint: str for hint in vars(types).values() if get_origin(hint) is Literal}
_check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any, **_words})))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and result, shapes included, at every call that a test makes."""
    for hint in list(vars(sys.modules[function.__module__]).values()):
        if getattr(hint, "_is_protocol", False) and hint is not Protocol:
            runtime_checkable(hint)
    return _check(function)


install_import_hook("radapt", f"{__name__}.check")


def pytest_configure() -> None:
    import torch  # after the variables above are set

    # One thread: floating-point results do not depend on the machine, and parallel workers do not fight.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the tests' run-time checks of signatures: wrong types reach the library's own, and code a compiler."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests that look at pages; every test has a window of its own in it."""
    from tests.browser import chromium

    with chromium() as started:
        yield started


@pytest.fixture
def tiny_vlm() -> Any:
    """A random CLIP for 32-pixel images (4 x 4 patches, 32 features, two blocks) that reacts visibly to its input."""
    from tests.tiny import tiny_clip

    return tiny_clip("tiny/clip", side=32, factor=10.0)


@pytest.fixture
def tiny_clip(tiny_vlm: Any) -> Any:
    """Its ``transformers.CLIPModel``."""
    return tiny_vlm.model


@pytest.fixture
def tiny_llava(tiny_clip: Any) -> Any:
    """A random LLaVA on the vision tower of the tiny CLIP; token 59 stands for the picture."""
    from tests.tiny import SHAPE, lively
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**SHAPE, num_key_value_heads=4, vocab_size=60)
    vision = tiny_clip.config.vision_config
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=59, vision_feature_layer=-1)
    model = lively(LlavaForConditionalGeneration(config))
    model.model.vision_tower.load_state_dict(tiny_clip.vision_model.state_dict())
    return model


@pytest.fixture
def tiny_qwen() -> Any:
    """A random Qwen3-VL with patches of 8 pixels, merged two by two; token 59 stands for a part of a picture."""
    from tests.tiny import SHAPE, lively
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4, "patch_size": 8}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 16}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    text = {**SHAPE, "num_key_value_heads": 4, "head_dim": 8, "vocab_size": 60, "rope_parameters": rope}
    tokens = {"image_token_id": 59, "video_token_id": 58, "vision_start_token_id": 57, "vision_end_token_id": 56}
    config = Qwen3VLConfig(vision_config={**vision, "deepstack_visual_indexes": [0]}, text_config=text, **tokens)
    return lively(Qwen3VLForConditionalGeneration(config))


@pytest.fixture
def tiny_shapes() -> Callable[..., Any]:
    """Builds a zero-shot set of 32-pixel ShapeWorld pictures: ``tiny_shapes(n, split="train")``."""
    import torch

    from radapt.data import Dataset, card
    from radapt.data.shapeworld import World, render

    def build(n: int, split: str = "train") -> Dataset:
        pictures, scenes = render(World(), split, range(n), size=32)
        classes = [name for (name,) in World().classes("shape")]
        labels = torch.tensor([classes.index(scene.shape) for scene in scenes])
        return Dataset(card=card("shapes"), split=split, images=pictures, labels=labels, classes=tuple(classes))

    return build

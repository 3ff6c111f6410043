"""A graft of real size, from folders in the real formats: a ViT-L/14 of transformers and a robust twin of open_clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from tests.models.openclip import open_clip
from tests.models.test_open_clip import tokenizer

import radapt
from radapt.models import full

Run = Callable[..., Result]
VISION = {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}
TEXT = {"context_length": 12, "vocab_size": 80, "width": 768, "heads": 12, "layers": 1}  # the tower is what counts


def write_pair(folder: Path) -> tuple[Path, Path]:
    """A CLIP with random weights as transformers writes it, and as open_clip does with other weights in its tower."""
    config = {"embed_dim": 768, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    torch.manual_seed(0)
    made = open_clip().CLIP(**config)
    twin, plain = folder / "twin", folder / "plain"
    twin.mkdir(parents=True)
    (twin / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(made.state_dict(), twin / "open_clip_model.safetensors")
    tokenizer().save_pretrained(twin)
    model = radapt.load(twin)
    with torch.no_grad():
        for parameter in model.image_parameters().values():
            parameter.mul_(1.25)
    model.save_pretrained(plain)
    return plain, twin


@pytest.mark.slow
def test_the_first_stages_of_a_robust_twin_of_real_size(run: Run, tmp_path: Path) -> None:
    plain, twin = write_pair(tmp_path)
    assert json.loads((plain / "config.json").read_text())["model_type"] == "clip"
    result = run("adapt", "graft", "--model", plain, "--guide", twin, "--out", "graft", "--quiet")
    assert result.exit_code == 0, result.output
    adapter = radapt.Adapter.from_pretrained("graft")
    model = radapt.load(plain)
    own, robust = ({n: p.detach() for n, p in m.tower.root.named_parameters()} for m in (model, radapt.load(twin)))
    first = ("embeddings.", "pre_layrnorm.", "encoder.layers.0.", "encoder.layers.1.")
    assert set(adapter.deltas) == {name for name in own if name.startswith(first) and (own[name] != robust[name]).any()}
    for name, delta in adapter.deltas.items():
        torch.testing.assert_close(own[name] + full(delta), robust[name])
    pixels, before = torch.rand(1, 3, 224, 224), model.fingerprint
    with torch.no_grad():
        clean = model.encode_image(pixels)
        with adapter.attach(model):
            assert not torch.allclose(model.encode_image(pixels), clean)
        assert torch.equal(model.encode_image(pixels), clean)
    assert model.fingerprint == before

"""SigLIP 2 with variable resolution: real files of a tiny random model, beside the model and its own processor."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.tiny import SHAPE, lively
from torch import Tensor
from transformers import Siglip2Config, Siglip2Model, Siglip2Processor, Siglip2Tokenizer, Siglip2VisionModel
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

import radapt
from radapt.adapters._gaussian import gaussian_filter
from radapt.errors import InputError, ModelError
from radapt.models import Layout, place_tokens, tower_of
from radapt.models.siglip2 import patchify, siglip2, unpatchify

TEXTS = ["a red circle", "a Large Blue STAR"]
SIZES = [(32, 32), (16, 64), (40, 24)]


def tokenizer() -> Any:
    """As the published one: lower-case, one end token, padded on the right, no mask; but its words are letters."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    entries = [*special, "\N{LOWER ONE EIGHTH BLOCK}", *string.ascii_letters]
    return Siglip2Tokenizer(
        {entry: number for number, entry in enumerate(entries)},
        merges=[],
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_input_names=["input_ids"],
    )


def processor(patches: int) -> Any:
    return Siglip2ImageProcessorPil(patch_size=8, max_num_patches=patches)


def tiny(patches: int) -> Any:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    config = Siglip2Config(
        vision_config={**SHAPE, "num_patches": patches, "patch_size": 8},
        text_config={**SHAPE, **special, "vocab_size": 64, "max_position_embeddings": 64, "projection_size": 32},
    )
    return lively(Siglip2Model(config), 1.5)


def published(model: Any, folder: Path) -> Path:
    """Files as on the hub, where the tokenizer is called by the name of the class that it was made from."""
    patches = model.config.vision_config.num_patches
    siglip2("s", model, tokenizer(), processor(patches)).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "GemmaTokenizer"}))
    return folder


@pytest.fixture
def model() -> Any:
    return tiny(16)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    return published(model, tmp_path / "siglip2")


@pytest.fixture
def images() -> list[Image.Image]:
    sizes = [(50, 40), (90, 30), (30, 90), (7, 200)]
    return [Image.merge("RGB", [Image.effect_noise(size, 60) for _ in range(3)]) for size in sizes]


def reference(model: Any, images: list[Image.Image], texts: list[str]) -> Any:
    whole = Siglip2Processor(processor(16), tokenizer())
    sizes = {"patch_size": 8, "max_num_patches": 16}
    inputs = whole(images=images, text=texts, images_kwargs=sizes, return_tensors="pt")
    assert set(inputs) == {"pixel_values", "pixel_attention_mask", "spatial_shapes", "input_ids"}
    assert inputs["input_ids"].shape == (len(texts), 64)
    with torch.no_grad():
        return model(**inputs)


def test_patches_are_those_of_the_processor() -> None:
    for height, width in [(32, 32), (16, 40), (8, 128)]:
        image = Image.merge("RGB", [Image.effect_noise((width, height), 60) for _ in range(3)])
        own = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=(height // 8) * (width // 8), do_resize=False)
        expected = own(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"].float()
        colours = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, height, width, 3)
        images = colours.permute(0, 3, 1, 2).float()
        assert torch.equal(patchify(images, 8), expected)
        assert torch.equal(unpatchify(expected, (height // 8, width // 8), 8), images)


def test_a_saved_folder_gives_the_embeddings_and_logits_of_the_reference(
    model: Any, folder: Path, images: list[Image.Image]
) -> None:
    loaded = radapt.load(folder)
    expected = reference(model, images, TEXTS)
    with torch.no_grad():
        unit = [F.normalize(loaded.encode_image(loaded.preprocess(each)[None]), dim=-1) for each in images]
        texts = F.normalize(loaded.encode_text(TEXTS), dim=-1)
        classifier = loaded.classifier([[text] for text in TEXTS])
        logits = torch.cat([loaded.logits(loaded.preprocess(each)[None], classifier) for each in images])
    assert (torch.cat(unit) - expected.image_embeds).abs().max() < 1e-5
    assert (texts - expected.text_embeds).abs().max() < 1e-5
    assert (logits - (expected.logits_per_image - model.logit_bias)).abs().max() < 1e-5
    assert torch.pdist(expected.image_embeds).min() > 1e-2
    assert torch.pdist(expected.text_embeds).min() > 1e-2


def test_images_keep_their_shape_under_the_limit_of_patches(folder: Path, images: list[Image.Image]) -> None:
    loaded = radapt.load(folder)
    assert loaded.image_size == (32, 32)
    expected = processor(16)(images, return_tensors="pt")
    for image, patches, grid in zip(images, expected["pixel_values"], expected["spatial_shapes"], strict=True):
        pixels = loaded.preprocess(image)
        rows, columns = pixels.shape[-2] // 8, pixels.shape[-1] // 8
        assert [rows, columns] == grid.tolist()
        assert (patchify(loaded.normalize(pixels[None]), 8)[0] - patches[: rows * columns]).abs().max() < 1e-5
        assert 0 <= pixels.min() < pixels.max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_gradients_reach_every_pixel_and_no_weight(folder: Path, size: tuple[int, int]) -> None:
    loaded = radapt.load(folder)
    pixels = torch.rand(2, 3, *size, requires_grad=True)
    loaded.encode_image(pixels).square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).all()
    assert all(p.grad is None for p in loaded.model.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_an_adapter_attaches_changes_and_detaches_exactly(folder: Path, size: tuple[int, int]) -> None:
    loaded, pixels = radapt.load(folder), torch.rand(2, 3, *size)
    keys = list(loaded.model.state_dict())
    adapter = radapt.training_free(loaded, alpha=0.4)
    assert (adapter.settings.grid, adapter.settings.prefix, adapter.settings.patch_size) == ((4, 4), 0, 8)
    with torch.no_grad():
        bare = loaded.encode_image(pixels)
        with adapter.attach(loaded):
            adapted = loaded.encode_image(pixels)
            assert list(loaded.model.state_dict()) == keys
        assert torch.equal(loaded.encode_image(pixels), bare)
    assert (adapted - bare).abs().max() > 1e-2 * bare.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_the_filter_works_on_the_image(folder: Path, size: tuple[int, int]) -> None:
    loaded, pixels = radapt.load(folder), torch.rand(2, 3, *size)
    adapter = radapt.training_free(loaded, alpha=0.0, cutoff=0.1)
    with torch.no_grad():
        expected = loaded.encode_image(gaussian_filter(pixels, 0.1))
        with adapter.attach(loaded):
            assert (loaded.encode_image(pixels) - expected).abs().max() < 1e-4 * expected.abs().max()


def attention_of(model: Any) -> list[Tensor]:
    """Where the outputs of the first attention will be, as they enter the residual sum."""
    outputs: list[Tensor] = []
    tower_of(model).attention.register_forward_hook(lambda *call: outputs.append(call[2][0]))
    return outputs


@pytest.mark.parametrize("size", SIZES)
def test_the_anchor_is_placed_on_the_grid_of_the_image(folder: Path, size: tuple[int, int]) -> None:
    loaded = radapt.load(folder)
    adapter = radapt.training_free(loaded, alpha=1.0)
    expected = place_tokens(adapter.anchor, (4, 4), (size[0] // 8, size[1] // 8), Layout())
    with adapter.attach(loaded), torch.no_grad():
        outputs = attention_of(loaded.model)
        loaded.encode_image(torch.rand(2, 3, *size))
    assert torch.equal(outputs[0], expected.expand(2, -1, -1))


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
@pytest.mark.parametrize("vision_only", [False, True])
def test_a_padded_batch_of_several_shapes_is_mapped_image_by_image(
    model: Any, images: list[Image.Image], vision_only: bool
) -> None:
    tower = model.vision_model if vision_only else model
    batch = processor(32)(images, return_tensors="pt")
    lengths = batch["spatial_shapes"].prod(1).tolist()
    assert len(set(lengths)) > 1
    assert max(lengths) < 32
    adapter = radapt.training_free(tower, alpha=0.4, cutoff=0.1)

    def run(**inputs: Tensor) -> Tensor:
        with torch.no_grad():
            if vision_only:  # in the order of its arguments
                pooled: Tensor = tower(*inputs.values()).pooler_output
                return pooled
            features: Tensor = tower.get_image_features(**inputs).pooler_output
            return features

    with adapter.attach(tower):
        together = run(**batch)
        alone = []
        for row, length in enumerate(lengths):
            values = {name: value[row : row + 1] for name, value in batch.items()}
            alone.append(run(**{n: v if n == "spatial_shapes" else v[:, :length] for n, v in values.items()}))
    assert (together - torch.cat(alone)).abs().max() < 1e-5 * together.abs().max()
    assert (together - run(**batch)).abs().max() > 1e-2 * together.abs().max()


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
def test_padding_stays_as_it_is(model: Any, images: list[Image.Image]) -> None:
    batch = processor(32)(images[:2], return_tensors="pt")
    padding = ~batch["pixel_attention_mask"].bool()
    assert padding.any(1).all()
    batch["pixel_values"][padding] = 7.0
    entered: list[Tensor] = []
    root, adapter = model.vision_model, radapt.training_free(model, alpha=1.0, cutoff=0.1)
    root.embeddings.patch_embedding.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    # Filter alone, then the anchor, too: the attention's output on padding must not depend on the latter.
    with torch.no_grad():
        with adapter.change(alpha=0.0).attach(model):
            outputs = attention_of(model)
            model.get_image_features(**batch)
        with adapter.attach(model):
            later = attention_of(model)
            model.get_image_features(**batch)
    assert (entered[0][padding] == 7.0).all()
    assert not torch.equal(entered[0][~padding], batch["pixel_values"][~padding])
    assert torch.equal(later[0][padding], outputs[0][padding])
    grids = [(rows, columns) for rows, columns in batch["spatial_shapes"].tolist()]
    anchors = torch.cat([place_tokens(adapter.anchor, (4, 4), grid, Layout()) for grid in grids])
    assert torch.equal(later[0][~padding], anchors)


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
def test_gradients_flow_through_the_adapter_of_a_padded_batch(model: Any, images: list[Image.Image]) -> None:
    batch = processor(32)(images, return_tensors="pt")
    batch["pixel_values"].requires_grad_()
    with radapt.training_free(model, alpha=0.4).attach(model):
        model.get_image_features(**batch).pooler_output.square().sum().backward()
    seen = batch["pixel_attention_mask"].bool()
    assert (batch["pixel_values"].grad[seen] != 0).all()
    assert (batch["pixel_values"].grad[~seen] == 0).all()


@pytest.mark.parametrize("size", [(32, 30), (20, 32), (4, 8), (0, 8)])
def test_images_of_a_wrong_size_are_refused(folder: Path, size: tuple[int, int]) -> None:
    with pytest.raises(
        InputError, match=rf"sides are multiples of 8 pixels, got {size[0]} x {size[1]}; bring .* with preprocess"
    ):
        radapt.load(folder).encode_image(torch.rand(1, 3, *size))


def test_texts_are_read_in_lower_case(folder: Path) -> None:
    loaded = radapt.load(folder)
    assert torch.equal(loaded.encode_text(["A Red CIRCLE"]), loaded.encode_text(["a red circle"]))
    assert not torch.allclose(loaded.encode_text(["a red star"]), loaded.encode_text(["a red circle"]), atol=1e-3)


def test_a_model_object_is_wrapped(model: Any, folder: Path, images: list[Image.Image]) -> None:
    own = processor(model.config.vision_config.num_patches)
    wrapped, loaded = radapt.load(model, tokenizer=tokenizer(), processor=own), radapt.load(folder)
    assert wrapped.model is model
    for image in images:
        pixels = wrapped.preprocess(image)
        assert torch.equal(pixels, loaded.preprocess(image))
        assert torch.equal(wrapped.encode_image(pixels[None]), loaded.encode_image(pixels[None]))


def test_half_precision_works_with_an_adapter(folder: Path) -> None:
    loaded, pixels = radapt.load(folder, dtype=torch.bfloat16), torch.rand(1, 3, 16, 64, requires_grad=True)
    with radapt.training_free(loaded, alpha=0.2).attach(loaded):
        embedding = loaded.encode_image(pixels)
        embedding.float().square().sum().backward()
    assert embedding.dtype == torch.bfloat16
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()


def test_its_tower_and_a_tower_alone_which_does_not_load(model: Any, tmp_path: Path) -> None:
    for holder in (model, Siglip2VisionModel(model.config.vision_config)):
        tower = tower_of(holder)
        assert (tower.grid, tower.tokens, tower.width, tower.patch_size) == ((4, 4), 16, 32, 8)
        assert tuple(tower.mean) == tuple(tower.std) == (0.5, 0.5, 0.5)
    holder.save_pretrained(tmp_path / "tower")
    with pytest.raises(ModelError, match=r"'siglip2_vision_model' cannot be loaded.*siglip2"):
        radapt.load(tmp_path / "tower")

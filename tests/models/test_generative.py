"""Models that generate text: what they read and say is what ``transformers`` gives, one sample at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.models.generative import BUILDERS, SIDE
from torch import Tensor

import radapt
from radapt.errors import InputError, ModelError
from radapt.models import VLM, contrastive, generative, zero_shot

PROMPTS = ["what shape is it?", "Provide a short caption for this image."]
ANSWERS = ["star", "a large red circle on a navy background"]


@pytest.fixture(params=BUILDERS)
def vlm(request: pytest.FixtureRequest, tmp_path: Path) -> VLM:
    return radapt.load(BUILDERS[request.param](tmp_path / "model"))


def images(vlm: VLM, n: int = 2) -> Tensor:
    return torch.rand(n, 3, *vlm.image_size, generator=torch.Generator().manual_seed(1))


def plainly(vlm: Any, pixels: Tensor, prompt: str) -> dict[str, Any]:
    """The inputs of one sample, as the processors of ``transformers`` make them: text with repeated image tokens."""
    model, config = vlm.model, vlm.model.config
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = vlm.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (vlm.processor.image_mean, vlm.processor.image_std))
    kind = config.model_type
    seen: dict[str, Any]
    if kind.startswith("qwen"):
        photo = Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
        batch = vlm.processor(photo, return_tensors="pt")
        seen = {"pixel_values": batch["pixel_values"], "image_grid_thw": batch["image_grid_thw"]}
        count = int(batch["image_grid_thw"].prod()) // 4
    elif kind == "llava_next":
        side = SIDE
        small = torch.nn.functional.interpolate(pixels[None], (side, side), mode="bicubic", antialias=True)[0]
        parts = [
            small,
            pixels[:, :side, :side],
            pixels[:, :side, side:],
            pixels[:, side:, :side],
            pixels[:, side:, side:],
        ]
        seen = {"pixel_values": torch.stack([(part - mean) / std for part in parts])[None]}
        seen["image_sizes"] = torch.tensor([list(pixels.shape[1:])])
        count = 36 + 12 * 13
    else:
        seen = {"pixel_values": ((pixels - mean) / std)[None]}
        count = 36 + (config.vision_feature_select_strategy == "full" and "clip" in config.vision_config.model_type)
    place = vlm.tokenizer.convert_ids_to_tokens(config.image_token_id)
    ids = vlm.tokenizer(text.replace(place, f"{place} " * count), return_tensors="pt")["input_ids"]
    if kind.startswith("qwen"):
        seen["mm_token_type_ids"] = (ids == config.image_token_id).int()
    assert model is vlm.model
    return {"input_ids": ids, **seen}


def eight_bits(pixels: Tensor) -> Tensor:
    return (pixels * 255).round() / 255


def test_it_reads_as_transformers_does(vlm: Any) -> None:
    pixels = eight_bits(images(vlm))
    loss, right = vlm.answer_scores(pixels, vlm.tokenize(PROMPTS, ANSWERS))
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        inputs = plainly(vlm, pixels[row], prompt)
        added = vlm.tokenizer(answer, add_special_tokens=False)["input_ids"] + [vlm.tokenizer.eos_token_id]
        whole = torch.cat([inputs["input_ids"], torch.tensor([added])], 1)
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = (whole == vlm.model.config.image_token_id).int()
        logits = vlm.model(**{**inputs, "input_ids": whole}).logits[0, -len(added) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(added))
        assert loss[row] == pytest.approx(expected.item(), abs=2e-4)
        assert bool(right[row]) == bool((logits.argmax(1) == torch.tensor(added)).all())


def test_it_says_what_transformers_says_and_knows_that_it_would(vlm: Any) -> None:
    pixels = eight_bits(images(vlm))
    texts = vlm.generate(pixels, PROMPTS, max_new_tokens=6)
    for row, prompt in enumerate(PROMPTS):
        inputs = plainly(vlm, pixels[row], prompt)
        output = vlm.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        assert texts[row] == vlm.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_what_it_would_say_is_what_it_says(vlm: Any) -> None:
    pixels = eight_bits(images(vlm, 1))
    inputs = plainly(vlm, pixels[0], PROMPTS[0])
    # Neither the end nor another image: the answer is to have two tokens, and one place for an image is allowed.
    vlm.model.lm_head.weight[[vlm.model.config.image_token_id, vlm.tokenizer.eos_token_id]] = 0
    greedy = vlm.model.generate(**inputs, max_new_tokens=2, do_sample=False)[0, -2:]
    tokens = vlm.tokenize([PROMPTS[0]] * 3, ["star"] * 3)  # "star" and the end: two columns
    tokens.ids[:, -2:] = greedy
    for row in (1, 2):
        tokens.ids[row, -row] = 50 if greedy[-row] != 50 else 51
    _, right = vlm.answer_scores(pixels.expand(3, -1, -1, -1), tokens)
    assert right.tolist() == [True, False, False]


def test_gradients_reach_the_pixels_and_agree_with_differences(vlm: Any) -> None:
    vlm.model.double()
    pixels = images(vlm).double().requires_grad_(True)
    tokens = vlm.tokenize(PROMPTS, ANSWERS)
    loss, _ = vlm.answer_scores(pixels, tokens)
    (gradient,) = torch.autograd.grad(loss.sum(), pixels)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    direction = torch.randn_like(pixels).sign()
    step = 1e-4
    with torch.no_grad():
        up, down = (vlm.answer_scores(pixels + sign * step * direction, tokens)[0].sum() for sign in (1, -1))
    slope = (gradient * direction).sum().item()
    assert (up - down).item() / (2 * step) == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_padding_and_neighbours_do_not_matter(vlm: Any) -> None:
    pixels = images(vlm)
    together = vlm.answer_scores(pixels, vlm.tokenize(PROMPTS, ANSWERS))[0]
    alone = torch.cat([vlm.answer_scores(pixels[[i]], vlm.tokenize([PROMPTS[i]], [ANSWERS[i]]))[0] for i in range(2)])
    assert torch.allclose(together, alone, atol=2e-5)
    tokens = vlm.tokenize(PROMPTS, ANSWERS)
    turned = vlm.answer_scores(pixels.flip(0), tokens[torch.tensor([1, 0])])[0]
    assert torch.equal(turned.flip(0), together)


def test_checkpointing_changes_nothing_but_what_is_kept(vlm: Any) -> None:
    pixels, tokens = images(vlm).requires_grad_(True), vlm.tokenize(PROMPTS, ANSWERS)

    def run() -> tuple[Tensor, Tensor, int]:
        kept: dict[int, int] = {}

        def pack(value: Tensor) -> Tensor:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss, _ = vlm.answer_scores(pixels, tokens)
        return loss, torch.autograd.grad(loss.sum(), pixels)[0], sum(kept.values())

    loss, gradient, plenty = run()
    vlm.gradient_checkpointing = True
    again, same, little = run()
    assert torch.allclose(loss, again, atol=1e-6)
    assert torch.allclose(gradient, same, atol=1e-6)
    assert little < 0.75 * plenty
    assert not any(module.training for module in vlm.model.modules())


def test_images_come_in_the_size_that_it_takes(vlm: Any) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    pixels = vlm.preprocess(photo)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert len(vlm.generate(pixels[None], [PROMPTS[0]], max_new_tokens=2)) == 1


def test_wrong_input_is_explained(vlm: Any) -> None:
    pixels = images(vlm)
    with pytest.raises(InputError, match="non-empty"):
        vlm.tokenize(["what shape is it?", "  "])
    with pytest.raises(InputError, match="one answer per prompt, got 1 for 2"):
        vlm.tokenize(PROMPTS, ANSWERS[:1])
    with pytest.raises(InputError, match="one prompt per image, got 2 for 1"):
        vlm.generate(pixels[:1], PROMPTS)
    with pytest.raises(InputError, match="room for"):
        vlm.tokenize(["star " * 300])
    with pytest.raises(InputError, match="no answers to score"):
        vlm.answer_scores(pixels, vlm.tokenize(PROMPTS))
    place = vlm.tokenizer.convert_ids_to_tokens(vlm.model.config.image_token_id)
    with pytest.raises(InputError, match="one place for the image"):
        vlm.tokenize([place])
    with pytest.raises(InputError, match="no place for an image"):
        vlm.tokenize(["what shape is it?"], [f"a {place}"])


def test_what_a_model_lacks_is_named(vlm: VLM, tiny_vlm: VLM) -> None:
    assert generative(vlm) is vlm
    assert contrastive(tiny_vlm) is zero_shot(tiny_vlm) is tiny_vlm
    for narrow in (contrastive, zero_shot):
        with pytest.raises(ModelError, match=r"has no text encoder; this needs a CLIP or SigLIP"):
            narrow(vlm)
    with pytest.raises(ModelError, match=r"tiny/clip has no language model; this needs a LLaVA or Qwen-VL"):
        generative(tiny_vlm)


def test_an_adapter_of_its_tower_changes_what_it_reads(vlm: Any, tmp_path: Path) -> None:
    adapter = radapt.training_free(vlm, alpha=0.5)
    adapter.save_pretrained(tmp_path / "adapter")
    pixels, tokens = images(vlm), vlm.tokenize(PROMPTS, ANSWERS)
    with torch.no_grad():
        bare = vlm.answer_scores(pixels, tokens)[0]
        with radapt.Adapter.from_pretrained(tmp_path / "adapter").attach(vlm):
            defended = vlm.answer_scores(pixels, tokens)[0]
        assert (defended - bare).abs().max() > 1e-4
        assert torch.equal(vlm.answer_scores(pixels, tokens)[0], bare)


HOSTILE: dict[str, dict[str, Any]] = {
    "penalties": {"repetition_penalty": 10.0, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 5.0},
    "beams": {"num_beams": 3, "length_penalty": -5.0, "early_stopping": True, "num_return_sequences": 2},
    "lengths": {"min_new_tokens": 12, "min_length": 80, "max_length": 3, "exponential_decay_length_penalty": (1, 4.0)},
    "words": {"bad_words_ids": [[20], [30]], "sequence_bias": [[[21], -50.0]], "suppress_tokens": [*range(8, 40)]},
    "forced": {"forced_bos_token_id": 12, "forced_eos_token_id": 12, "begin_suppress_tokens": [*range(8, 40)]},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 4, "top_p": 0.5, "typical_p": 0.5, "min_p": 0.1},
    "other": {
        "penalty_alpha": 0.6,
        "guidance_scale": 3.0,
        "prompt_lookup_num_tokens": 3,
        "dola_layers": "low",
    },
    "output": {"return_dict_in_generate": True, "output_scores": True, "stop_strings": "a", "max_time": 0.0},
}
"""Settings of a ``generation_config`` that keep transformers from decoding greedily."""


def greedily(vlm: Any, pixels: Tensor, prompt: str, longest: int, ends: Collection[int]) -> str:
    """Greedy decoding by plain passes over everything so far, one sample at a time."""
    inputs, said = plainly(vlm, pixels, prompt), list[int]()
    while len(said) < longest:
        whole = torch.cat([inputs["input_ids"], torch.tensor([said], dtype=torch.int64)], 1)
        types = {"mm_token_type_ids": (whole == vlm.model.config.image_token_id).int()}
        given = {**inputs, "input_ids": whole, **(types if "mm_token_type_ids" in inputs else {})}
        with torch.no_grad():
            token = int(vlm.model(**given).logits[0, -1].argmax())
        if token in ends:
            break
        said.append(token)
    return str(vlm.tokenizer.decode(said, skip_special_tokens=True)).strip()


def small(name: str, n: int) -> tuple[Any, Tensor, list[str]]:
    """A small model that ships, with images and prompts."""
    data = radapt.load_dataset("shapeworld-captions", n=n)
    return radapt.load(name), data.pixels(range(n)), [PROMPTS[1]] * n


@pytest.mark.slow
@pytest.mark.parametrize("name", ["micro/llava", "micro/qwen-vl"])
def test_decoding_is_greedy_whatever_the_checkpoint_prefers(name: str) -> None:
    vlm, pixels, prompts = small(name, 2)
    end = vlm.tokenizer.eos_token_id
    expected = [greedily(vlm, each, prompt, 20, [end]) for each, prompt in zip(pixels, prompts, strict=True)]
    before = vlm.model.generation_config.to_dict()
    for settings in (*HOSTILE.values(), {key: value for each in HOSTILE.values() for key, value in each.items()}):
        for key, value in settings.items():
            setattr(vlm.model.generation_config, key, value)
        changed = vlm.model.generation_config.to_dict()
        assert vlm.generate(pixels, prompts) == expected
        assert vlm.model.generation_config.to_dict() == changed
        vlm.model.generation_config = type(vlm.model.generation_config).from_dict(before)
    assert vlm.answer_scores(pixels, vlm.tokenize(prompts, expected))[1].all()


@pytest.mark.parametrize("name", ["micro/llava", "micro/qwen-vl"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_ends_at_any_end_token(name: str, count: int) -> None:
    vlm, pixels, prompts = small(name, 2)
    first = vlm.generate(pixels, prompts)
    begin = {word for text in first for word in text.split()[:2]}
    words = list(dict.fromkeys(word for text in first for word in text.split() if word not in begin))[:count]
    more = [vlm.tokenizer.convert_tokens_to_ids(word) for word in words]
    vlm.model.generation_config.eos_token_id = [*more, vlm.tokenizer.eos_token_id] if count > 1 else more[0]
    assert vlm.ends == [vlm.tokenizer.eos_token_id, *more]
    texts = vlm.generate(pixels, prompts)
    cut = [greedily(vlm, each, prompt, 20, vlm.ends) for each, prompt in zip(pixels, prompts, strict=True)]
    assert texts != first
    assert texts == cut
    # What it says before the end token is the answer, and the verdict agrees with what is said.
    loss, right = vlm.answer_scores(pixels, vlm.tokenize(prompts, texts))
    assert right.all()
    wrong = vlm.tokenize(prompts, [f"{text} {text.split()[0]}" for text in texts])
    assert not vlm.answer_scores(pixels, wrong)[1].any()
    # The loss is that of any of them.
    for row, (prompt, answer) in enumerate(zip(prompts, texts, strict=True)):
        inputs = plainly(vlm, pixels[row], prompt)
        added = [*vlm.tokenizer(answer, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]
        whole = torch.cat([inputs["input_ids"], torch.tensor([added])], 1)
        types = {"mm_token_type_ids": (whole == vlm.model.config.image_token_id).int()}
        given = {**inputs, "input_ids": whole, **(types if "mm_token_type_ids" in inputs else {})}
        with torch.no_grad():
            chances = vlm.model(**given).logits[0, -len(added) - 1 : -1].softmax(1)
        each = [chances[at, token] for at, token in enumerate(added[:-1])] + [chances[-1, vlm.ends].sum()]
        assert loss[row] == pytest.approx(-torch.stack(each).log().mean().item(), abs=2e-4)
    with pytest.raises(InputError, match=f"has a token in it that ends it: 'a {words[0]} star'"):
        vlm.tokenize(prompts[:1], [f"a {words[0]} star"])


def test_chat_templates_end_tokens_end_an_answer(tmp_path: Path) -> None:
    vlm: Any = radapt.load(BUILDERS["qwen3_vl"](tmp_path))
    vlm.tokenizer.eos_token = "<pad>"  # as of base models, whose chat models close a turn with another
    vlm.model.generation_config.eos_token_id = None
    number = vlm.tokenizer.convert_tokens_to_ids
    assert vlm.ends == [number("<pad>"), number("<|im_end|>")]
    vlm.model.generation_config.eos_token_id = [10_000]
    with pytest.raises(ModelError, match=r"has the end token 10000; .* must give one below \d+"):
        vlm.generate(images(vlm), PROMPTS)


@pytest.mark.parametrize("how", ["saved", "object", "processor", "named"])
def test_the_chat_template_is_that_of_the_checkpoint_however_it_comes(how: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    radapt.load("micro/llava").save_pretrained(tmp_path / "model")
    template = (tmp_path / "model/chat_template.jinja").read_text()
    other = template.replace("USER:", "[INST]").replace("ASSISTANT:", "[/INST]")
    assert other != template
    (tmp_path / "model/chat_template.jinja").unlink()
    (tmp_path / "model/chat_template.json").write_text(json.dumps({"chat_template": other}))
    model = radapt.load(tmp_path / "model")
    assert model.template == other
    if how == "saved":
        model.save_pretrained(tmp_path / "again")
        found = radapt.load(tmp_path / "again")
    else:
        loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        images = CLIPImageProcessorPil.from_pretrained(tmp_path / "model")
        given: dict[str, Any] = {"tokenizer": tokenizer}
        if how == "processor":
            loaded.config._name_or_path = ""
            given["processor"] = LlavaProcessor(images, tokenizer, chat_template=other, patch_size=8)
        if how == "named":
            tokenizer.chat_template = {"default": other, "tool_use": template}
        found = radapt.load(loaded, **given)
    assert found.template == other
    if how == "named":
        tokenizer.chat_template = {"rag": other}
        with pytest.raises(ModelError, match="none is called default"):
            radapt.load(loaded, tokenizer=tokenizer)


def test_a_processor_that_pads_is_refused(tmp_path: Path) -> None:
    radapt.load("micro/llava").save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_pad": True}))
    with pytest.raises(ModelError, match="pads images to a square"):
        radapt.load(tmp_path)
    # Of a LLaVA-NeXT the same word is about batches of tiles.
    folder = BUILDERS["llava_next"](tmp_path / "next")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_pad": True}))
    assert radapt.load(folder).name


def test_a_model_that_peft_wraps_is_the_model_inside() -> None:
    from peft import LoraConfig, get_peft_model

    model = radapt.load("micro/llava")
    adapter = radapt.training_free(model, alpha=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers
        wrapped = get_peft_model(model.model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    with adapter.attach(wrapped):
        assert radapt.attached(model)
    assert radapt.load(wrapped, tokenizer=model.tokenizer, processor=model.processor).image_parameters()

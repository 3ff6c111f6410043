"""What the micro LLaVA and the micro Qwen-VL share: their words, their language model's shape, and what they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from radapt.data import PROMPTS
from radapt.data.shapeworld import ATTRIBUTES, Scene, World, caption, generator, questions, render
from radapt.errors import SettingsError
from radapt.fingerprint import digest
from radapt.io import check_writable
from radapt.models import VLM, generative, likelihood
from radapt.numbers import check_seed, whole
from radapt.training import Schedule, epoch_rows, fit

__all__ = ["PIXELS", "TEXT", "build_tokenizer", "train"]

PIXELS = 48
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 128**-0.5,
}
"""Shape of the language models. With the usual range of 0.02, queries of so narrow a model begin all alike, and it does
not learn in this time to look for a word of the question in the image."""
_WORDS = "a an on background object the is there what shape of it colour texture how large yes no user assistant"
_EVERY = 100
_SHARES = (0.3, 0.4, 0.3)
"""Of captions, of questions whether something is there, and of other questions."""


def build_tokenizer(special: tuple[str, ...], template: str, *, start: str = "", end: str) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the world's language and of the prompts.

    Args:
        special: tokens of the model's own, the place of the image among them.
        template: chat template.
        start: the token that begins a text, if any.
        end: the token that ends an answer.
    """
    prompts = f"{PROMPTS['captioning']} {PROMPTS['vqa'].replace('{q}', '')} {_WORDS} : ? ."
    split = pre_tokenizers.Whitespace()
    words = [word for word, _ in split.pre_tokenize_str(prompts.lower())]
    listed = dict.fromkeys(chain(["<pad>", "<unk>"], special, words, *ATTRIBUTES.values()))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if start:
        number = tokenizer.token_to_id(start)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=start or None,
        eos_token=end,
        chat_template=template,
        model_max_length=TEXT["max_position_embeddings"],
    )


class _Pool:
    """Scenes of the training split, and rows of a batch that depend on the step alone."""

    def __init__(self, scenes: Sequence[Scene], batch_size: int, seed: int) -> None:
        self.scenes, self.batch_size, self.seed = scenes, batch_size, seed

    def rows(self, step: int) -> NDArray[np.int64]:
        """A fresh permutation of all scenes every epoch."""
        return epoch_rows(step, self.batch_size, len(self.scenes), partial(generator, f"{self.seed}/epoch"))

    def pairs(self, step: int, rows: NDArray[np.int64]) -> tuple[list[str], list[str]]:
        """Prompts and answers about some scenes."""
        rng = generator(f"{self.seed}/step", step)
        prompts, answers = zip(*(_pair(self.scenes[row], rng) for row in rows), strict=True)
        return list(prompts), list(answers)


class _Words:
    """Negative log-likelihood of answers where a description stands in the place of the image.

    So the language model knows the language of the world, and how to compare what is asked with what is there, before
    it sees an image; larger models bring that with them.
    """

    def __init__(self, model: Any, pool: _Pool) -> None:
        self.model, self.pool = model, pool

    def __call__(self, step: int) -> Tensor:
        rows = self.pool.rows(step)
        prompts, answers = self.pool.pairs(step, rows)
        prompts = [f"{caption(self.pool.scenes[row])} {prompt}" for row, prompt in zip(rows, prompts, strict=True)]
        tokens, model = self.model.tokenize(prompts, answers), self.model.model
        mask = tokens.mask & (tokens.ids != model.config.image_token_id)
        ids = torch.where(mask, tokens.ids, 0)
        output = model(input_ids=ids, attention_mask=mask.long(), logits_to_keep=tokens.answer + 1, use_cache=False)
        return likelihood(output.logits, ids, mask)[0].mean()


class _Images:
    """Negative log-likelihood of captions and answers about images."""

    def __init__(self, model: VLM, pool: _Pool, images: Tensor) -> None:
        self.model, self.pool, self.images = generative(model), pool, images

    def __call__(self, step: int) -> Tensor:
        rows = self.pool.rows(step)
        tokens = self.model.tokenize(*self.pool.pairs(step, rows))
        return self.model.answer_scores(self.images[rows].permute(0, 3, 1, 2).float() / 255, tokens)[0].mean()


def _pair(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A prompt with its answer: a caption, whether something is there, or an attribute."""
    kind = rng.choice(len(_SHARES), p=_SHARES)
    if kind == 0:
        return PROMPTS["captioning"], caption(scene)
    asked = [pair for pair in questions(scene, rng) if (pair[1] in ("yes", "no")) == (kind == 1)]
    question, answer = asked[rng.integers(len(asked))]
    return PROMPTS["vqa"].replace("{q}", question), answer


def train(
    model: VLM,
    frozen: str,
    out: Path,
    *,
    start: str | None,
    words: int,
    steps: int,
    batch_size: int,
    pool: int,
    lr: float,
    seed: int,
    quiet: bool,
) -> VLM:
    """Train a model in two stages and save it in float16; a killed run resumes.

    First its language model alone, on descriptions (``words`` steps), then all but what is frozen, on images. A model
    that was trained before is trained on with images alone.

    Args:
        model: the untrained model.
        frozen: how the names of the parameters begin that stay as they are; empty: none stays.
        out: folder of the result; the checkpoints lie beside it.
        start: what the model was loaded from, if it was trained before.
        words, steps, batch_size, lr: AdamW, warm-up of 10 %, cosine decay, gradients clipped at norm 1, in each stage.
        pool: number of rendered training images.
        seed: seed of images and batches.
        quiet: no progress bar.

    Raises:
        SettingsError: a setting out of range, a folder that cannot be written, or a checkpoint of another training.
        ModelError: the model cannot be saved; the checkpoints are kept.
    """
    out = check_writable(out, folder=True)
    for name, size in (("batch_size", batch_size), ("pool", pool)):
        whole(name, size)
    check_seed(seed)
    if pool < batch_size:
        raise SettingsError(f"pool must be at least the batch of {batch_size} images, got {pool}")
    counts = {"words": words, "images": steps}
    plans = {
        stage: Schedule(steps=count, lr=lr, weight_decay=0.05, max_grad_norm=1.0) for stage, count in counts.items()
    }
    settings: dict[str, object] = {"batch": batch_size, "pool": pool, "seed": seed}
    if start is not None:
        settings["start"] = start
    named: dict[str, Tensor] = dict(model.model.named_parameters())
    language = {name: p for name, p in named.items() if "language_model." in name or name.startswith("lm_head.")}
    trained = {name: p for name, p in named.items() if not (frozen and name.startswith(frozen))}
    images, scenes = render(World(), "train", range(pool), size=PIXELS, seed=seed)
    settings |= {"weights": model.fingerprint, "images": digest([torch.from_numpy(images)])}
    shared = _Pool(scenes, batch_size, seed)
    stages: dict[str, tuple[dict[str, Tensor], Callable[[int], Tensor]]] = {
        "words": (language, _Words(model, shared)),
        "images": (trained, _Images(model, shared, torch.from_numpy(images))),
    }
    for stage, (parameters, loss) in stages.items():
        if stage == "words" and start is not None:
            continue
        checkpoint = out.parent / f"{out.name}.{stage}.checkpoint.safetensors"
        model.model.requires_grad_(False)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        label = f"{model.name}, {stage}"
        saved: dict[str, Any] = {"checkpoint": checkpoint, "every": _EVERY, "settings": settings}
        fit(parameters, loss, plans[stage], label=label, **saved, quiet=quiet)
    model.model.requires_grad_(False)
    model.save_pretrained(out, dtype=torch.float16)
    for stage in stages:
        (out.parent / f"{out.name}.{stage}.checkpoint.safetensors").unlink(missing_ok=True)
    return model

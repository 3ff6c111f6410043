"""What the micro LLaVA and the micro Qwen-VL share: their words, their language model's shape, and what they learn."""

from __future__ import annotations

from collections.abc import Mapping
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
from radapt.models import VLM
from radapt.train import Schedule, fit

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
not learn in this time to look for a word of the question in the picture."""
_WORDS = "a an on background object the is there what shape of it colour texture how large yes no user assistant"
_SHARES = (0.35, 0.35, 0.3)
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


class _Loss:
    """Negative log-likelihood of captions and answers, on batches that hang on the step alone."""

    def __init__(self, model: VLM, pool: int, batch: int, seed: int) -> None:
        self.model, self.batch, self.seed = model, batch, seed
        pictures, self.scenes = render(World(), "train", range(pool), size=PIXELS, seed=seed)
        self.pictures = torch.from_numpy(pictures)

    def rows(self, step: int) -> NDArray[np.int64]:
        """A fresh permutation of all pictures every epoch."""
        per_epoch = len(self.pictures) // self.batch
        order = generator(f"{self.seed}/epoch", step // per_epoch).permutation(len(self.pictures))
        first = step % per_epoch * self.batch
        return order[first : first + self.batch]

    def __call__(self, step: int) -> Tensor:
        rng, rows = generator(f"{self.seed}/step", step), self.rows(step)
        pixels = self.pictures[rows].permute(0, 3, 1, 2).float() / 255
        pairs = [_pair(self.scenes[row], rng) for row in rows]
        tokens = self.model.tokenize([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
        return self.model.read(pixels, tokens)[0].mean()


def _pair(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A prompt with its answer: a caption, an attribute, or whether something is there, which is learned last."""
    kind = rng.choice(len(_SHARES), p=_SHARES)
    if kind == 0:
        return PROMPTS["captioning"], caption(scene)
    presence = kind == 1
    asked = [pair for pair in questions(scene, rng) if (pair[1] in ("yes", "no")) == presence]
    question, answer = asked[rng.integers(len(asked))]
    return PROMPTS["vqa"].replace("{q}", question), answer


def train(
    model: VLM,
    parameters: Mapping[str, Tensor],
    out: Path,
    *,
    steps: int,
    batch: int,
    pool: int,
    lr: float,
    seed: int,
    quiet: bool,
) -> VLM:
    """Train some parameters of a model on captions and questions, and save it in float16; a killed run resumes."""
    checkpoint = out.parent / f"{out.name}.checkpoint.safetensors"
    settings = {"batch": batch, "pool": pool, "seed": seed}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    objective, schedule = _Loss(model, pool, batch, seed), Schedule(steps=steps, lr=lr, weight_decay=0.05)
    fit(parameters, objective, schedule, label=model.name, checkpoint=checkpoint, settings=settings, quiet=quiet)
    model.model.requires_grad_(False)
    model.save_pretrained(out, dtype=torch.float16)
    checkpoint.unlink()
    return model

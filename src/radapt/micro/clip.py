"""``micro/clip``: an ordinary ``transformers.CLIPModel`` of two million parameters, trained on ShapeWorld."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from radapt.data.digits import DIGITS, load_digits
from radapt.data.shapeworld import ATTRIBUTES, World, caption, generator, mentioned, render
from radapt.errors import SettingsError
from radapt.fingerprint import digest
from radapt.io import check_writable, checkpoint_path, digest_of
from radapt.models import VLM
from radapt.models.hf_clip import clip
from radapt.numbers import check_seed, number, whole
from radapt.training import Schedule, epoch_rows, fit

__all__ = ["build_model", "build_processor", "build_tokenizer", "train_clip", "word_tokenizer"]

_PIXELS, _STD = 48, 0.125
_NAMES = [*ATTRIBUTES, "digit"]
_PREFIXES = ("", "a photo of ", "a picture of ")
_WORDS = (
    "a an on of object background photo picture handwritten digit "
    "the is there what shape it colour texture how large yes no ?"
)
_TOKENS = 20


def _values(name: str) -> tuple[str, ...]:
    return DIGITS if name == "digit" else ATTRIBUTES[name]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the world's language, with CLIP's start and end tokens."""
    return word_tokenizer(chain(_WORDS.split(), *(_values(name) for name in _NAMES)), _TOKENS)


def word_tokenizer(words: Iterable[str], longest: int) -> PreTrainedTokenizerFast:
    """Word-level tokenizer with CLIP's start and end tokens (2 and 3); padding is 0, an unknown word is 1.

    Args:
        words: in lower case, without white space; they have the numbers from 4 up.
        longest: tokens of the longest text, start and end included.
    """
    special = ["<pad>", "<unk>", "<start>", "<end>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(chain(special, words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=longest,
    )


def build_model(
    vocabulary: int,
    seed: int = 0,
    *,
    pixels: int = _PIXELS,
    width: int = 128,
    depth: int = 8,
    heads: int = 4,
    tokens: int = _TOKENS,
    activation: str = "quick_gelu",
) -> CLIPModel:
    """An untrained model with patches of 8 pixels.

    Args:
        vocabulary: number of words.
        seed: of its weights.
        pixels: height and width of the images.
        width, depth, heads, activation: of the vision tower; the text tower has 3 blocks of width 128 with 4 heads.
        tokens: of the longest text.
    """
    text = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 3}
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    config = CLIPConfig(
        vision_config={
            **vision,
            "num_hidden_layers": depth,
            "image_size": pixels,
            "patch_size": 8,
            "projection_dim": 128,
            "hidden_act": activation,
        },
        text_config={
            **text,
            "vocab_size": vocabulary,
            "max_position_embeddings": tokens,
            "projection_dim": 128,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        projection_dim=128,
    )
    torch.manual_seed(seed)
    return CLIPModel(config)


def build_processor(pixels: int = _PIXELS, std: float = _STD) -> CLIPImageProcessorPil:
    """Resize and crop to 48 pixels, or others; mean 0.5 and one standard deviation for all channels."""
    edge, crop = {"shortest_edge": pixels}, {"height": pixels, "width": pixels}
    return CLIPImageProcessorPil(size=edge, crop_size=crop, image_mean=[0.5] * 3, image_std=[std] * 3)


class _Pool:
    """Training images with their attributes: columns as in ``_NAMES``, -1 where an attribute does not apply."""

    def __init__(self, size: int, digit_share: float, seed: int) -> None:
        images, self.scenes = render(World(), "train", range(size), size=_PIXELS, seed=seed)
        digits, labels = load_digits("train", _PIXELS)
        self.images = torch.from_numpy(np.concatenate([images, digits]))
        self.attributes = torch.full((len(self.images), len(_NAMES)), -1, dtype=torch.int64, device="cpu")
        for column, name in enumerate(ATTRIBUTES):
            values = ATTRIBUTES[name]
            numbers = [values.index(getattr(scene, name)) for scene in self.scenes]
            self.attributes[:size, column] = torch.tensor(numbers, device="cpu")
        self.attributes[size:, -1] = torch.from_numpy(labels)
        self.size, self.digits, self.share = size, len(digits), digit_share

    def rows(self, step: int, batch_size: int, seed: int) -> NDArray[np.int64]:
        """Rows of one batch: scenes by epoch permutation, digits with replacement."""
        digits = round(batch_size * self.share)
        scenes = batch_size - digits
        order = epoch_rows(step, scenes, self.size, partial(generator, f"{seed}/epoch"))
        drawn = generator(f"{seed}/digits", step).integers(self.digits, size=digits)
        return np.concatenate([order, self.size + drawn])


def _augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Small random rotation, scale and shift of each image (for the digits, which are few)."""
    n = len(pixels)
    angle, scale = rng.uniform(-0.2, 0.2, n), rng.uniform(0.85, 1.15, n)
    matrix = np.zeros((n, 2, 3), dtype=np.float32)
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle) * scale
    matrix[:, 0, 1], matrix[:, 1, 0] = -np.sin(angle) * scale, np.sin(angle) * scale
    matrix[:, :, 2] = rng.uniform(-0.12, 0.12, (n, 2))
    grid = F.affine_grid(torch.from_numpy(matrix), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")


def _soft_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy towards a uniform distribution over the positives of each row that has any."""
    share = positive.sum(1, keepdim=True)
    per_row = -(logits.log_softmax(1) * positive).sum(1) / share.squeeze(1).clamp(min=1)
    return per_row[share.squeeze(1) > 0].mean()


class _Loss:
    """Contrastive loss with every true (image, caption) pair as a positive, plus class-prompt cross-entropy.

    A caption names some attributes; it is true of every image that has them, so the positives of a batch are
    known exactly and there are no false negatives (for one positive per row this is CLIP's loss, Radford et al. 2021).
    """

    def __init__(
        self, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pool: _Pool, batch_size: int, seed: int
    ) -> None:
        self.model, self.tokenizer, self.pool, self.batch_size, self.seed = model, tokenizer, pool, batch_size, seed

    def _captions(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[list[str], Tensor]:
        texts, masks = [], torch.zeros(len(rows), len(_NAMES), dtype=torch.bool, device="cpu")
        for i, row in enumerate(rows):
            if row >= self.pool.size:
                body, mention = f"a handwritten digit {DIGITS[self.pool.attributes[row, -1]]}", frozenset(["digit"])
            else:
                mention = mentioned(rng)
                body = caption(self.pool.scenes[row], mention)
            texts.append(_PREFIXES[rng.integers(3)] + body)
            masks[i] = torch.tensor([name in mention for name in _NAMES], device="cpu")
        return texts, masks

    def _prompts(self, rng: np.random.Generator) -> list[str]:
        forms = {
            "shape": "{}",
            "colour": "{} object",
            "texture": "{} object",
            "size": "{} object",
            "background": "object on {} background",
            "digit": "handwritten digit {}",
        }
        texts = []
        for name in _NAMES:
            for value in _values(name):
                body = forms[name].format(f"{_article(value)} {value}" if name == "background" else value)
                texts.append(f"{_PREFIXES[rng.integers(3)]}{_article(body)} {body}")
        return texts

    def __call__(self, step: int) -> Tensor:
        rng = generator(f"{self.seed}/step", step)
        rows = self.pool.rows(step, self.batch_size, self.seed)
        attributes = self.pool.attributes[rows]
        pixels = self.pool.images[rows].permute(0, 3, 1, 2).float() / 255
        is_digit = torch.from_numpy(rows >= self.pool.size)
        pixels[is_digit] = _augment(pixels[is_digit], rng)
        captions, mention = self._captions(rows, rng)
        tokens = self.tokenizer(captions + self._prompts(rng), padding=True, return_tensors="pt")
        image = F.normalize(self.model.get_image_features((pixels - 0.5) / _STD).pooler_output, dim=-1)
        text = F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)
        scale = self.model.logit_scale.clamp(max=np.log(100)).exp()
        logits = scale * image @ text.T
        agree = (attributes[:, None] == attributes[None]) | ~mention[:, None]
        positive = agree.all(-1).float()  # caption x image
        pairs = logits[:, : len(rows)].T
        loss = 0.5 * (_soft_cross_entropy(pairs, positive) + _soft_cross_entropy(pairs.T, positive.T))
        start = len(rows)
        for column, name in enumerate(_NAMES):
            stop = start + len(_values(name))
            known = attributes[:, column] >= 0
            if known.any():
                loss = loss + 0.5 * F.cross_entropy(logits[known, start:stop], attributes[known, column])
            start = stop
        return loss


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def train_clip(
    out: Path,
    *,
    steps: int = 4000,
    batch_size: int = 128,
    pool: int = 50_000,
    digit_share: float = 0.1,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    quiet: bool = False,
) -> VLM:
    """Train the micro CLIP and save it, in float16, to a folder in the Hugging Face format; a killed run resumes.

    Args:
        out: folder of the result; the checkpoint lies beside it.
        steps, batch_size, lr, weight_decay: AdamW, warm-up of 10 %, cosine decay, gradients clipped at norm 1.
        pool: number of rendered training images.
        digit_share: share of each batch that shows handwritten digits.
        seed: seed of the weights, the images and the batches.

    Raises:
        SettingsError: a setting out of range, fewer images than a batch takes, a folder that cannot be written, or a
            checkpoint of another training.
        ModelError: the model cannot be saved; the checkpoint is kept.
    """
    out = check_writable(out, folder=True)
    for name, count in (("batch_size", batch_size), ("pool", pool)):
        whole(name, count)
    number("digit_share", digit_share, 0, 1)
    check_seed(seed)
    schedule = Schedule(steps=steps, lr=lr, weight_decay=weight_decay, max_grad_norm=1.0)
    if pool < batch_size:
        raise SettingsError(f"pool must be at least the batch of {batch_size} images, got {pool}")
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), seed).train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    images = _Pool(pool, digit_share, seed)
    objective = _Loss(model, tokenizer, images, batch_size, seed)
    checkpoint = checkpoint_path(out)
    settings: dict[str, object] = {"batch": batch_size, "pool": pool, "digit_share": digit_share, "seed": seed}
    settings |= {"weights": digest(model.parameters()), "images": digest([images.images])}
    settings |= {"labels": digest([images.attributes]), "words": digest_of(tokenizer.get_vocab())}
    fit(parameters, objective, schedule, label="micro/clip", checkpoint=checkpoint, settings=settings, quiet=quiet)
    vlm = clip("micro/clip", model.eval().requires_grad_(False), tokenizer, build_processor())
    vlm.save_pretrained(out, dtype=torch.float16)
    checkpoint.unlink(missing_ok=True)
    return vlm

"""``micro/photos``: an ordinary ``transformers.CLIPModel`` of five million parameters, trained on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from radapt.data import Dataset, load_dataset
from radapt.data.shapeworld import generator
from radapt.errors import SettingsError
from radapt.fingerprint import digest
from radapt.io import check_writable, checkpoint_path, digest_of
from radapt.models import VLM, check_device
from radapt.models.hf_clip import clip
from radapt.numbers import check_seed, number, whole
from radapt.training import Schedule, fit, steps_within

from ._photo_augment import augment, mixed
from ._photo_words import KINDS, Words, texts_of, words_of
from .clip import build_model, build_processor, word_tokenizer

__all__ = ["train_photos"]

_STD = 0.25
_TOKENS = 24
_TEXTS = 64
_SMOOTHING = 0.1
_SET_WEIGHT, _KIND_WEIGHT = 1.0, 0.25
_EVERY, _LOOK = 500, 25
_LABEL = "micro/photos"


class _Images:
    """The training images of several sets on the device, and their labels in one numbering.

    Attributes:
        sets: 8-bit images of each set, N x 3 x height x width, and their labels.
        ends: where the classes of each set end, in the one numbering.
    """

    def __init__(self, data: Sequence[Dataset], device: torch.device) -> None:
        self.ends = list(accumulate(len(each.classes) for each in data))
        starts = [0, *self.ends]
        self.sets = [
            (torch.from_numpy(each.images).permute(0, 3, 1, 2).contiguous().to(device), each.labels.to(device) + start)
            for each, start in zip(data, starts, strict=False)
        ]

    def batch(self, counts: Sequence[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels in [0, 1] and labels: so many images of each set, one set after the other, drawn with replacement."""
        images, labels = [], []
        for (pool, truth), count in zip(self.sets, counts, strict=True):
            rows = torch.randint(len(pool), (count,), generator=random, device=pool.device)
            images.append(pool[rows])
            labels.append(truth[rows])
        return torch.cat(images).float() / 255, torch.cat(labels)


class _Texts:
    """Tokens of many texts about each class and each kind, drawn on the device; and which classes exclude each other.

    Attributes:
        kinds: classes x kinds: one where the class is of the kind.
        open: classes x classes: whether an image of the first is to be told from the second. A class of another set
            that may be true of the image, too (a ketch is a ship), is left out.
    """

    def __init__(
        self, classes: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerFast, seed: int, device: torch.device
    ) -> None:
        names = [name for each in classes for name in each]
        of = [number for number, each in enumerate(classes) for _ in each]
        known = [Words(name) for name in names]
        rng = generator(f"{seed}/texts", 0)
        texts = [
            text
            for name, others in [*zip(names, (each.others for each in known), strict=True), *((k, ()) for k in KINDS)]
            for text in texts_of(name, others, _TEXTS, rng)
        ]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt")
        ids = tokens["input_ids"]
        longest = int((ids != tokenizer.pad_token_id).sum(1).max())
        self.tokens = ids[:, :longest].reshape(len(names) + len(KINDS), _TEXTS, longest).to(device)
        kinds = [[float(each.kind == kind) for kind in range(len(KINDS))] for each in known]
        self.kinds = torch.tensor(kinds, device=device)
        shared = [[of[i] == of[j] or not a.also & b.also for j, b in enumerate(known)] for i, a in enumerate(known)]
        self.open = torch.tensor(shared, device=device)
        self.content = digest_of(texts)

    def draw(self, random: torch.Generator) -> Tensor:
        """One text for each class, and one for each kind."""
        rows = torch.arange(len(self.tokens), device=self.tokens.device)
        chosen = torch.randint(_TEXTS, (len(rows),), generator=random, device=rows.device)
        tokens: Tensor = self.tokens[rows, chosen]
        return tokens


def _soft_entropy(logits: Tensor, target: Tensor, allowed: Tensor) -> Tensor:
    """Cross-entropy towards a smoothed distribution over the classes that a row allows, averaged over the rows.

    Args:
        logits: rows x classes, in float32.
        target: rows x classes; what is not allowed has none of it.
        allowed: rows x classes.
    """
    share = allowed / allowed.sum(1, keepdim=True)
    smooth = (1 - _SMOOTHING) * target + _SMOOTHING * share * target.sum(1, keepdim=True)
    logarithms = logits.masked_fill(~allowed, -1e4).log_softmax(1)
    return -(smooth * logarithms).sum(1).mean()


class _Loss:
    """Cross-entropy between images and prompts: over the classes of all sets, of each set alone, and over the kinds."""

    def __init__(
        self, model: CLIPModel, images: _Images, texts: _Texts, counts: Sequence[int], mix: float, seed: int
    ) -> None:
        self.model, self.images, self.texts, self.counts, self.mix = model, images, texts, counts, mix
        self.seed, self.device = seed, texts.tokens.device
        # Rows of it instead of one_hot, which waits for the device.
        self.identity = torch.eye(len(texts.kinds), device=self.device)

    def __call__(self, step: int) -> Tensor:
        random = torch.Generator(self.device).manual_seed(int(generator(f"{self.seed}/photos", step).integers(2**62)))
        pixels, labels = self.images.batch(self.counts, random)
        pixels = augment(pixels, random)
        # Rolled within each set, so that a mixture has classes of one set only.
        order = torch.cat([part.roll(1) for part in torch.arange(len(pixels), device=self.device).split(self.counts)])
        pixels, share = mixed(pixels, pixels[order], self.mix, random)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            image = self.model.get_image_features((pixels - 0.5) / _STD).pooler_output
            text = self.model.get_text_features(self.texts.draw(random)).pooler_output
        scale = self.model.logit_scale.clamp(max=float(np.log(100))).exp()
        logits = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        classes = len(self.texts.kinds)
        target = torch.lerp(self.identity[labels[order]], self.identity[labels], share[:, None])
        allowed = self.texts.open[labels] & self.texts.open[labels[order]]
        loss = _soft_entropy(logits[:, :classes], target, allowed)
        start = row = 0
        for count, end in zip(self.counts, self.images.ends, strict=True):
            rows, columns = slice(row, row + count), slice(start, end)
            part = target[rows, columns]
            own = _soft_entropy(logits[rows, columns], part, torch.ones_like(part, dtype=torch.bool))
            loss = loss + _SET_WEIGHT * count / len(labels) * own
            start, row = end, row + count
        of_kind = target @ self.texts.kinds
        return loss + _KIND_WEIGHT * _soft_entropy(logits[:, classes:], of_kind, torch.ones_like(of_kind).bool())


def _tokenizer(classes: Sequence[Sequence[str]]) -> PreTrainedTokenizerFast:
    text = words_of([name for each in classes for name in each])
    return word_tokenizer([word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)], _TOKENS)


def train_photos(
    out: Path,
    *,
    data: Sequence[str] = ("cifar-10", "caltech-101"),
    n: Sequence[int] = (50_000, 3_030),
    shares: Sequence[float] = (0.8, 0.2),
    steps: int = 6000,
    minutes: float | None = None,
    batch_size: int = 1024,
    pixels: int = 64,
    width: int = 192,
    depth: int = 9,
    heads: int = 3,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    ema: float = 0.998,
    mix: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> VLM:
    """Train a CLIP on the train splits of sets of photographs and save it, in float16; a killed run resumes.

    All images lie on the device, where they are drawn, augmented and mixed. On a GPU the towers run in bfloat16.

    Args:
        out: folder of the result; the checkpoint lies beside it.
        data: zero-shot sets of the hub, or of its mirror (``RADAPT_DATA``).
        n: images of each.
        shares: of each in every batch, as numbers that need not sum to one.
        steps, batch_size, lr, weight_decay: AdamW, warm-up of 10 %, cosine decay, gradients clipped at norm 1.
        minutes: how long to train, instead of ``steps``: their number follows from the speed that is measured first.
            It is a part of the training, so a killed run is continued with that number of steps.
        pixels: height and width of the images, a multiple of 8.
        width, depth, heads: of the vision tower; the text tower is that of ``micro/clip``.
        ema: decay of the moving average of the weights that is the result.
        mix: share of the images that are mixed with another one (mixup or cutmix).
        seed: seed of the weights and the batches.
        device: where to train.
        quiet: no progress bar.

    Raises:
        SettingsError: a setting out of range, a set that cannot be read or has fewer images, a folder that cannot be
            written, or a checkpoint of another training.
        ModelError: there is no such device, or the model cannot be saved; the checkpoint is kept.
    """
    out = check_writable(out, folder=True)
    check_seed(seed)
    check_device(device)
    for name, count in (("batch_size", batch_size), ("pixels", pixels), ("width", width), ("depth", depth)):
        whole(name, count)
    whole("heads", heads)
    number("mix", mix, 0, 1)
    if pixels % 8 or width % heads:
        raise SettingsError(f"pixels must be a multiple of 8 and width of heads, got {pixels}, and {width} / {heads}")
    if not len(data) == len(n) == len(shares):
        raise SettingsError(
            f"give n and shares for each set; got {len(data)} sets, {len(n)} n and {len(shares)} shares"
        )
    for share in shares:
        number("shares", share, 0, above=True)
    counts = _counts(batch_size, shares)
    schedule = Schedule(steps=steps, lr=lr, weight_decay=weight_decay, max_grad_norm=1.0, ema=ema)
    place = torch.device(device)
    sets = [
        load_dataset(name, split="train", n=count, size=pixels, quiet=quiet)
        for name, count in zip(data, n, strict=True)
    ]
    for each in sets:
        if each.card.task != "zero-shot":
            raise SettingsError(f"photographs need labels; {each.name!r} is a set for {each.card.task}")
    classes = [each.classes for each in sets]
    tokenizer = _tokenizer(classes)
    shape = {"pixels": pixels, "width": width, "depth": depth, "heads": heads}
    model = build_model(len(tokenizer), seed, **shape, tokens=_TOKENS, activation="gelu").train()
    weights = digest(model.parameters())
    model.to(place)
    images, texts = _Images(sets, place), _Texts(classes, tokenizer, seed, place)
    loss = _Loss(model, images, texts, counts, mix, seed)
    parameters = dict(model.named_parameters())
    if minutes is not None:
        schedule = replace(schedule, steps=steps_within(minutes, parameters, loss, schedule))
    checkpoint = checkpoint_path(out)
    settings: dict[str, object] = {"counts": counts, "mix": mix, "seed": seed, "device": place.type, "weights": weights}
    settings |= {"images": [digest([torch.from_numpy(each.images), each.labels]) for each in sets]}
    settings |= {"texts": texts.content}
    fit(
        parameters, loss, schedule,
        label=_LABEL, checkpoint=checkpoint, every=_EVERY, look=_LOOK, settings=settings, quiet=quiet,
    )  # fmt: skip
    vlm = clip(_LABEL, model.eval().requires_grad_(False), tokenizer, build_processor(pixels, _STD))
    vlm.save_pretrained(out, dtype=torch.float16)
    checkpoint.unlink(missing_ok=True)
    return vlm


def _counts(batch_size: int, shares: Sequence[float]) -> list[int]:
    """Images of each set in a batch."""
    ends = [round(batch_size * part / sum(shares)) for part in accumulate(shares)]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if min(counts) < 1:
        raise SettingsError(f"a batch of {batch_size} images has none of some sets with shares {tuple(shares)}")
    return counts

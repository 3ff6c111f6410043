"""R-Adapt+: the anchor is optimised, alone, on a few thousand adversarial images; every weight stays frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from radapt.attacks.pgd import PGD
from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.io import check_writable
from radapt.models import VLM
from radapt.numbers import check_seed, number, whole
from radapt.registry import nearest
from radapt.training import Schedule, fit, workers
from radapt.types import Adversary, AnchorLoss, Classifier, Labels, Mix, Pixels

from ._adapter import Adapter
from ._adversarial import TrainingImages, loaded, named
from ._build import D0
from ._gaussian import cutoff_from_d0
from ._method import AdapterMethod
from ._settings import check_settings
from .training_free import training_free

__all__ = ["METHOD", "data_driven"]


class _Anchor:
    """Loss of the adapter with a trainable anchor, over some steps."""

    def __init__(self, adapter: Adapter, images: TrainingImages, adversary: Adversary, steps: int) -> None:
        self.adapter, self.images, self.model = adapter, images, images.original
        self.fixed: Pixels | None = None
        if adversary == "static":  # made once against the undefended model, as in the paper
            used = images.used(steps)
            parts = used.split(images.batch_size)
            self.fixed = torch.cat([images.adversarial(self.model, part, "static").cpu() for part in parts])
            self.places = torch.zeros(len(images.clean), dtype=torch.int64, device="cpu")
            self.places[used] = torch.arange(len(used), device="cpu")

    def __call__(self, step: int) -> Tensor:
        rows = self.images.rows(step)
        if self.fixed is not None:
            with self.adapter.attach(self.model):
                return self.images.loss(self.model, self.fixed[self.places[rows]].to(self.model.device), rows)
        anchor = self.adapter.anchor
        with Adapter(self.adapter.settings, None if anchor is None else anchor.detach()).attach(self.model):
            pixels = self.images.adversarial(self.model, rows, f"adaptive/{step}")
        with self.adapter.attach(self.model):
            return self.images.loss(self.model, pixels, rows)


def data_driven(
    model: str | Path | VLM | nn.Module,
    pixels: Pixels | Dataset,
    labels: Labels | None = None,
    *,
    classifier: Classifier | None = None,
    loss: AnchorLoss = "embedding",
    adversary: Adversary = "static",
    eps: float = 4 / 255,
    attack_steps: int | None = None,
    steps: int = 120,
    batch_size: int = 128,
    lr: float = 2e-2,
    cutoff: float | None = cutoff_from_d0(D0),
    alpha: float = 0.8,
    mix: Mix = "interpolate",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
) -> Adapter:
    """Optimise an anchor on adversarial images, starting from the training-free one (R-Adapt+).

    The paper leaves the loss open: ``embedding`` is the squared L2 distance between the adapted model on the
    adversarial image and the original model on the clean one (no labels); ``text`` is the cross-entropy of zero-shot
    logits. The adversary is ``static`` (images made once against the undefended model, as in the paper) or
    ``adaptive`` (remade through the adapter at each step, about three times the time).

    Args:
        model: the model to adapt, or its name; it is not changed.
        pixels: training images in [0, 1], N x 3 x H x W, or a dataset, which is read batch by batch; the paper takes
            2,000. The adversarial images of a static adversary, of those that the steps reach, are held in memory.
        labels, classifier: for ``loss="text"``: true classes, and unit vectors from ``model.classifier(prompts)``.
        loss: ``embedding`` or ``text``.
        adversary: ``static`` or ``adaptive``.
        eps: l-inf radius of the training attack, in pixel units.
        attack_steps: PGD steps; by default 10 (static) or 4 (adaptive).
        steps, batch_size, lr: AdamW without decay, warm-up of 10 %, cosine decay, gradients clipped at norm 1.
        cutoff, alpha, mix: as in :func:`radapt.training_free`; alpha 0.8 is where the paper's R-Adapt+ peaks.
        seed: seed of the batches and the attack.
        checkpoint: file to resume from when the training is killed. It is there at the end, too, and gives the same
            adapter again: remove it when the adapter is saved, as :func:`radapt.adapters.adapt` does.
        quiet: no progress bar.

    Raises:
        ModelError: images of another size than the model's.
        InputError: no images, or wrong ones; labels or classifier missing for ``loss="text"``.
        SettingsError: an unknown loss or adversary, alpha = 0 (nothing to train), a setting out of range, a model that
            carries an adapter, or a checkpoint that cannot be written or belongs to another training.
        CheckError: the loss or the anchor is not finite; the last checkpoint is kept.

    Warns:
        UserWarning: the images are a dataset of a test split.
    """
    for name, got, allowed in (("loss", loss, get_args(AnchorLoss)), ("adversary", adversary, get_args(Adversary))):
        if got not in allowed:
            raise SettingsError(f"unknown {name} {got!r}{nearest(got, allowed)}")
    check_settings(cutoff, alpha)
    check_seed(seed)
    number("eps", eps, 0, 1)
    whole("batch_size", batch_size)
    default = 10 if adversary == "static" else 4
    inner = default if attack_steps is None else attack_steps
    whole("attack_steps", inner)
    attack = PGD(eps=eps, steps=inner, step_size=eps / 2 if adversary == "adaptive" else eps / 4)
    schedule = Schedule(steps=steps, lr=lr, max_grad_norm=1.0)
    file = None if checkpoint is None else check_writable(checkpoint)
    if alpha == 0:
        raise SettingsError("alpha = 0 leaves the anchor without effect; choose alpha > 0 to train one")
    vlm = loaded(model, loss, labels, classifier)
    vlm.check_bare()
    images = TrainingImages(vlm, pixels, labels, classifier, attack, batch_size, seed)
    start = training_free(vlm, cutoff=cutoff, alpha=alpha, mix=mix)
    assert start.anchor is not None
    anchor = start.anchor.to(vlm.device).requires_grad_()
    training = _Anchor(Adapter(start.settings, anchor), images, adversary, steps)
    settings: dict[str, object] = {
        "loss": loss,
        "adversary": adversary,
        "eps": eps,
        "attack_steps": inner,
        "batch": batch_size,
        "seed": seed,
    }
    settings |= {"start": start.fingerprint, "weights": vlm.fingerprint, **images.facts()}
    parameters = {"anchor": anchor}
    history = fit(
        parameters, training, schedule, label="anchor", checkpoint=file, every=20, settings=settings, quiet=quiet
    )
    origin: dict[str, object] = {
        "loss": loss,
        "adversary": adversary,
        **named(pixels),
        "images": len(pixels),
        "eps": eps,
        "attack": f"PGD-{inner}",
        "steps": steps,
        "batch": batch_size,
        "lr": lr,
        "seed": seed,
        **({} if (count := workers().count) == 1 else {"workers": count}),
        "first_loss": round(history[0], 4),
        "last_loss": round(sum(history[-10:]) / len(history[-10:]), 4),
    }
    return Adapter(replace(start.settings, method="data-driven", origin=origin), anchor.detach().cpu())


METHOD = AdapterMethod(data_driven, needs_images=True, streams=True)

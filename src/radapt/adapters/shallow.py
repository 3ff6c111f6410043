"""Shallow: deltas of the first layers, trained behind the filter against an attacker who sees them, without a twin."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from radapt.attacks.pgd import PGD
from radapt.data import Dataset
from radapt.errors import AdapterError, SettingsError
from radapt.io import check_writable
from radapt.models import VLM, Delta, LowRank, full, low_rank, names_of, parts, scaled
from radapt.numbers import check_seed, number, whole
from radapt.registry import nearest
from radapt.training import Schedule, fit, workers
from radapt.types import AnchorLoss, Classifier, Labels, Pixels

from ._adapter import Adapter
from ._adversarial import TrainingImages, loaded, named
from ._base_weights import base_weights, check_base_weights
from ._build import adapter_for
from ._method import AdapterMethod
from ._settings import check_settings

__all__ = ["METHOD", "shallow"]


class _Added(nn.Module):
    """A frozen weight with a trainable delta: whole, or a product of two matrices."""

    def __init__(self, delta: Delta) -> None:
        super().__init__()
        parts = {"delta": delta} if isinstance(delta, Tensor) else {"up": delta.up, "down": delta.down}
        for name, tensor in parts.items():
            self.register_parameter(name, nn.Parameter(tensor.detach().float().clone()))

    def forward(self, weight: Tensor) -> Tensor:
        own = dict(self.named_parameters())
        added = own["delta"] if "delta" in own else (own["up"] @ own["down"]).view(weight.shape)
        return weight + added.to(weight.dtype)

    def current(self) -> Delta:
        """The delta as it stands."""
        own = {name: parameter.detach().cpu() for name, parameter in self.named_parameters()}
        return own["delta"] if "delta" in own else LowRank(up=own["up"], down=own["down"])


def shallow(
    model: str | Path | VLM | nn.Module,
    pixels: Pixels | Dataset,
    labels: Labels | None = None,
    *,
    classifier: Classifier | None = None,
    loss: AnchorLoss = "embedding",
    layers: str = "embedding+block:0-2",
    rank: int | None = None,
    cutoff: float | None = 0.25,
    start: str | Path | Adapter | None = None,
    eps: float = 4 / 255,
    attack_steps: int = 4,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    clean_weight: float = 0.5,
    ema: float = 0.0,
    share: float = 1.0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
) -> Adapter:
    """Train deltas of some layers on at most a few thousand images, all other weights frozen.

    Minimises ``E max_d ||f_adapted(x + d) - f(x)||^2`` over the deltas, FARE's loss (Schlarmann et al. 2024, eq. 3),
    which needs neither labels nor a twin; the adversary sees filter and deltas as they are at each step.

    Args:
        model: the model to adapt, or its name; it is not changed.
        pixels: training images in [0, 1], N x 3 x H x W, or a dataset, which is read batch by batch; any photographs
            will do for ``embedding``, and the more kinds of them there are, the better it holds on what it has not
            seen.
        labels, classifier: for ``loss="text"``: true classes, and unit vectors from ``model.classifier(prompts)``.
        loss: ``embedding`` or ``text``, the cross-entropy of zero-shot logits (as TeCoA).
        layers: what is trained, in the words of :func:`radapt.models.parts`; the head is no part of an adapter.
        rank: of the deltas of matrices; None trains them whole.
        cutoff: of the filter before the vision encoder, in cycles per pixel; None for no filter.
        start: an adapter whose deltas the training begins with, such as a graft, or its folder; its filter is not
            taken over. None: with none.
        eps: l-inf radius of the training attack, in pixel units.
        attack_steps: PGD steps at every step of the training.
        steps, batch_size, lr: AdamW with a warm-up of 10 %, cosine decay, gradients clipped at norm 1.
        weight_decay: decay of the deltas, which pulls the weights towards the model's own.
        clean_weight: weight of the same loss on the clean images, beside that on the adversarial ones (as the natural
            term of TRADES, Zhang et al. 2019); it costs one more pass at every step.
        ema: decay of the moving average of the deltas that is then the result; 0: the last ones.
        share: how much of the trained deltas the adapter has: below 1, it is interpolated towards the model.
        seed: seed of the batches, the attack and the first matrices of low rank.
        checkpoint: file to resume from when the training is killed; as in :func:`radapt.data_driven`.
        quiet: no progress bar.

    Raises:
        ModelError: images of another size than the model's.
        InputError: no images, or wrong ones; labels or classifier missing for ``loss="text"``.
        SettingsError: an unknown loss or part, a setting out of range, layers outside of the vision encoder, or a
            checkpoint that cannot be written or belongs to another training.
        AdapterError: ``start`` has no deltas, has an anchor, or changes weights that are not trained, or another
            tower's.
        CheckError: the loss or a delta is not finite; the last checkpoint is kept.

    Warns:
        UserWarning: the images are a dataset of a test split.
    """
    if loss not in get_args(AnchorLoss):
        raise SettingsError(f"unknown loss {loss!r}{nearest(loss, get_args(AnchorLoss))}")
    check_settings(cutoff, 0)
    check_seed(seed)
    number("eps", eps, 0, 1, above=True)
    number("share", share, 0, 1, above=True)
    number("clean_weight", clean_weight, 0, 1000)
    for name, count in (("attack_steps", attack_steps), ("batch_size", batch_size), ("rank", rank)):
        if count is not None:
            whole(name, count)
    schedule = Schedule(steps=steps, lr=lr, weight_decay=weight_decay, decayed="all", max_grad_norm=1.0, ema=ema)
    file = None if checkpoint is None else check_writable(checkpoint)
    vlm = loaded(model, loss, labels, classifier)
    vlm.check_bare()
    names = _trained(vlm, layers)
    begun = _start(start)
    if begun is not None:
        check_base_weights(begun.settings, vlm.tower, begun.deltas)
    first = _beginning(vlm, names, begun, rank, seed)
    attack = PGD(eps=eps, steps=attack_steps, step_size=2.5 * eps / attack_steps)
    images = TrainingImages(vlm, pixels, labels, classifier, attack, batch_size, seed)
    origin: dict[str, object] = {
        "loss": loss,
        "layers": layers,
        "rank": "full" if rank is None else rank,
        **named(pixels),
        "images": len(pixels),
        "eps": eps,
        "attack": f"PGD-{attack_steps}",
        "steps": steps,
        "batch": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "clean_weight": clean_weight,
        "ema": ema,
        "share": share,
        "seed": seed,
        **({} if begun is None else {"start": begun.fingerprint}),
        **({} if (count := workers().count) == 1 else {"workers": count}),
    }
    with _open(vlm, first) as (tuned, added):
        filtered = adapter_for(vlm, None, cutoff=cutoff, alpha=0.0, mix="interpolate", method="shallow", origin=origin)
        with filtered.attach(tuned):

            def batch_loss(step: int) -> Tensor:
                rows = images.rows(step)
                total = images.loss(tuned, images.adversarial(tuned, rows, f"shallow/{step}"), rows)
                if clean_weight:
                    total = total + clean_weight * images.loss(tuned, images.pixels(rows).to(tuned.device), rows)
                return total

            trained = {f"{name}/{own}": each for name, part in added.items() for own, each in part.named_parameters()}
            facts = {"weights": vlm.fingerprint, "cutoff": cutoff, **origin, **images.facts()}
            history = fit(
                trained, batch_loss, schedule, label="shallow", checkpoint=file, every=20, settings=facts, quiet=quiet
            )
        deltas = {name: scaled(part.current(), share) for name, part in added.items()}
    origin |= {"first_loss": round(history[0], 4), "last_loss": round(sum(history[-10:]) / len(history[-10:]), 4)}
    base = base_weights(vlm.tower, deltas)
    return Adapter(filtered.change(origin=origin, base_weights=base).settings, deltas=deltas)


def _trained(model: VLM, layers: str) -> list[str]:
    """Names, within the vision encoder, of the weights of some parts."""
    inside = {id(parameter): name for name, parameter in model.tower.root.named_parameters()}
    chosen = parts(model, layers)
    outside = [name for name, parameter in chosen.items() if id(parameter) not in inside]
    if outside:
        raise SettingsError(
            f"an adapter changes weights of the vision encoder alone, and {outside[0]} is outside of it; leave the "
            "head out of layers, or fine-tune the model: radapt.finetune"
        )
    return [inside[id(parameter)] for parameter in chosen.values()]


def _start(given: str | Path | Adapter | None) -> Adapter | None:
    """The adapter to begin with.

    Raises:
        AdapterError: it has nothing that could be trained on, or more.
    """
    if given is None:
        return None
    start = given if isinstance(given, Adapter) else Adapter.from_pretrained(given)
    if not start.deltas or (start.anchor is not None and start.settings.alpha):
        what = "an anchor, which this training would leave out" if start.deltas else "no deltas to begin with"
        raise AdapterError(f"the adapter to start from ({start.settings.method}) has {what}; take a graft, say")
    return start


def _beginning(model: VLM, names: list[str], start: Adapter | None, rank: int | None, seed: int) -> dict[str, Delta]:
    """The deltas that a training begins with: those of an adapter, or ones that change nothing."""
    weights = dict(model.tower.root.named_parameters())
    known = {} if start is None else start.deltas
    if strange := [name for name in known if name not in names]:
        raise AdapterError(f"the adapter to start from changes {strange[0]}, which is not among the trained layers")
    generator = torch.Generator().manual_seed(seed)
    first = dict[str, Delta]()
    for name in names:
        weight = weights[name]
        delta: Delta = full(known[name], weight.shape) if name in known else torch.zeros(weight.shape, device="cpu")
        if rank is not None and weight.ndim > 1 and rank * (len(weight) + weight[0].numel()) < weight.numel():
            if name in known:
                delta = low_rank(full(delta), rank)
            else:  # as LoRA begins: one matrix is zero
                down = torch.randn(rank, weight[0].numel(), generator=generator) / rank**0.5
                delta = LowRank(up=torch.zeros(len(weight), rank, device="cpu"), down=down)
        first[name] = delta
    return first


@contextmanager
def _open(model: VLM, deltas: Mapping[str, Delta]) -> Iterator[tuple[VLM, dict[str, _Added]]]:
    """A copy of a model whose weights have trainable deltas, and these by name.

    Raises:
        AdapterError: one of the weights is computed from others; a copy would share its class with the model.
    """
    for name in deltas:
        holder = model.tower.root.get_submodule(name.rpartition(".")[0].partition(".parametrizations")[0])
        if parametrize.is_parametrized(holder):
            raise AdapterError(
                f"{name} of {model.name} is computed by a parametrization (weight_norm, say), and deltas are of plain "
                "weights; take it off with torch.nn.utils.parametrize.remove_parametrizations, or leave the layer out"
            )
    tuned = copy.copy(model)
    tuned.model = copy.deepcopy(model.model).requires_grad_(False)
    root, added = tuned.tower.root, dict[str, _Added]()
    for name, delta in deltas.items():
        added[name] = _Added(delta).to(model.device)
        for owner, _, last in (place.rpartition(".") for place in names_of(root, root.get_parameter(name))):
            parametrize.register_parametrization(root.get_submodule(owner), last, added[name], unsafe=True)
    yield tuned, added


METHOD = AdapterMethod(shallow, needs_images=True, streams=True)

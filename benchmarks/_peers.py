"""The attacks of other libraries behind one call: adversarial images from a model, images and labels.

The libraries are no dependencies of the project. They are installed without their own dependencies, two of which
(torchvision, robustbench) would break others; foolbox needs GitPython and requests to be imported:

    pip install gitpython requests six
    pip install --no-deps pyautoattack==0.2.0 torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0 \\
        adversarial-robustness-toolbox==1.20.1 git+https://github.com/fra31/auto-attack@a39220048b3c
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PeerAttack = Callable[[nn.Module, Tensor, Tensor, str, float, int, int], Tensor]
"""(model, images, labels, norm, eps, classes, batch) -> adversarial images."""

PACKAGES = {
    "autoattack": "autoattack",
    "pyautoattack": "pyautoattack",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
}


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def by_autoattack(*attacks: str, steps: int = 100, package: str = "autoattack") -> PeerAttack:
    """Attacks of AutoAttack's authors, or of a package with their interface, in turn, on the device of the images."""

    def run(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, classes: int, batch: int) -> Tensor:
        kind = {"linf": "Linf", "l2": "L2"}[norm]
        attack = import_module(package).AutoAttack(
            model, norm=kind, eps=eps, version="standard", seed=0, device=x.device
        )
        attack.version, attack.attacks_to_run, attack.verbose = "custom", list(attacks), False
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter = steps
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        if package == "autoattack":  # its logger prints whatever it is told
            attack.logger.log = lambda text: None
        size = {"bs" if package == "autoattack" else "batch_size": batch}
        found = attack.run_standard_evaluation(x, y, **size)
        adversarial: Tensor = found[0] if isinstance(found, tuple) else found
        return adversarial

    return run


by_pyautoattack = partial(by_autoattack, package="pyautoattack")


def _by_batches(attack: Any, x: Tensor, y: Tensor, batch: int) -> Tensor:
    parts = [attack(x[first : first + batch], y[first : first + batch]) for first in range(0, len(x), batch)]
    return torch.cat(parts)


def by_torchattacks(*names: str, steps: int = 100) -> PeerAttack:
    """Attacks of torchattacks, each on what the ones before it left, on the device of the model."""

    def run(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, classes: int, batch: int) -> Tensor:
        import torchattacks

        kind = {"linf": "Linf", "l2": "L2"}[norm]
        settings: dict[str, Any] = {"norm": kind, "eps": eps, "seed": 0}
        targets = {"n_classes": min(10, classes)}
        made: dict[str, Callable[[], Any]] = {
            "APGD": lambda: torchattacks.APGD(model, **settings, steps=steps),
            "APGDT": lambda: torchattacks.APGDT(model, **settings, **targets, steps=steps),
            "FAB": lambda: torchattacks.FAB(model, **settings, **targets, steps=steps, multi_targeted=True),
            "Square": lambda: torchattacks.Square(model, **settings, n_queries=5000),
        }
        # Its own AutoAttack takes 10 steps where the published one takes 100.
        attacks = [made[name]() for name in names]
        return _by_batches(attacks[0] if len(attacks) == 1 else torchattacks.MultiAttack(attacks), x, y, batch)

    return run


def _foolbox(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, classes: int, batch: int) -> Tensor:
    import foolbox

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(rel_stepsize=2.5 / 20, steps=20, random_start=True)
    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    return _by_batches(lambda a, b: attack(wrapped, a, b, epsilons=eps)[1], x, y, batch)


def _art(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, classes: int, batch: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import AutoProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes, clip_values=(0.0, 1.0)
    )
    attack = AutoProjectedGradientDescent(
        wrapped,
        norm={"linf": np.inf, "l2": 2}[norm],
        eps=eps,
        eps_step=2 * eps,
        max_iter=100,
        nb_random_init=1,
        batch_size=batch,
        loss_type="cross_entropy",
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


PEERS: dict[str, dict[str, PeerAttack]] = {
    "pgd": {"foolbox": _foolbox},
    "apgd-ce": {"pyautoattack": by_pyautoattack("apgd-ce"), "torchattacks": by_torchattacks("APGD"), "art": _art},
    "apgd-t": {"pyautoattack": by_pyautoattack("apgd-t"), "torchattacks": by_torchattacks("APGDT")},
    "fab-t": {"pyautoattack": by_pyautoattack("fab-t")},
    "square": {"pyautoattack": by_pyautoattack("square")},
    "standard": {
        "autoattack": by_autoattack("apgd-ce", "apgd-t", "fab-t", "square"),
        "pyautoattack": by_pyautoattack("apgd-ce", "apgd-t", "fab-t", "square"),
        "torchattacks": by_torchattacks("APGD", "APGDT", "FAB", "Square"),
    },
}
PEERS["fast"] = PEERS["standard"]
"""Attack -> library -> how to run it; PGD has 20 steps, the others the settings of AutoAttack's standard version."""

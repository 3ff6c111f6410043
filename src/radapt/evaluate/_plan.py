"""What is evaluated: candidates (a model, with or without an adapter) and threats."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from radapt._digest import digest
from radapt._version import __version__
from radapt.attacks import Attack, make
from radapt.errors import SettingsError
from radapt.models import VLM
from radapt.results import Setting

from ._task import Task

__all__ = ["Attachable", "Candidate", "Threat", "setting_of", "weights_of"]


class Attachable(Protocol):
    """What can be put on a model for the time of an evaluation: an adapter."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a model's output."""
        ...

    def attach(self, model: VLM) -> AbstractContextManager[Any]:
        """Put it on the model; leaving the context takes it off."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One line of a report: a defended (or undefended) model.

    Args:
        method: its name in reports.
        model: the model, without an adapter.
        adapter: what is put on it, if anything.
    """

    method: str
    model: VLM
    adapter: Attachable | None = None

    def on(self) -> AbstractContextManager[Any]:
        """The candidate with its adapter, for the time of a ``with`` block."""
        return nullcontext() if self.adapter is None else self.adapter.attach(self.model)


@dataclass(frozen=True, kw_only=True)
class Threat:
    """An attack and whose gradients it uses.

    Args:
        attack: name of the attack.
        eps: radius of the ball in pixel units (4/255).
        norm: ``linf`` or ``l2``.
        source: ``self`` (white-box: the attacker sees the whole defended model), ``undefended`` (transfer), or the
            ``method`` of another candidate (transfer).
        options: the attack's other settings (``steps``, ``restarts``...).

    Raises:
        SettingsError: an unknown attack or option, or a value out of range.
    """

    attack: str
    eps: float
    source: str
    norm: str = "linf"
    options: Mapping[str, object] = field(default_factory=dict, hash=False)  # a mapping has no hash

    def __post_init__(self) -> None:
        if not self.source:
            raise SettingsError("a threat must say whose gradients make the attack: source='self' or 'undefended'")
        _ = self.make()

    def make(self, **changes: object) -> Attack:
        """The attack itself, with some settings changed."""
        return make(self.attack, **{"eps": self.eps, "norm": self.norm, **self.options, **changes})

    def settings(self) -> dict[str, object]:
        """Every setting of the attack, defaults included, but for its norm and radius."""
        return {name: value for name, value in asdict(self.make()).items() if name not in ("eps", "norm")}


def weights_of(candidate: Candidate, source: Candidate | None, known: dict[VLM, str]) -> str:
    """Hash of a candidate's weights, and behind a colon of those of a source that is another model.

    Args:
        candidate, source: the candidate, and whose gradients make the attack.
        known: hashes by model, added to.
    """
    models = [candidate.model]
    if source is not None and source.model is not candidate.model:
        models.append(source.model)
    for model in models:
        if model not in known:
            known[model] = digest(model.model.parameters())
    return ":".join(known[model] for model in models)


def setting_of(
    candidate: Candidate, task: Task, threat: Threat | None, source: str, seed: int, weights: str
) -> Setting:
    """The setting of one figure; ``threat`` None is the clean figure, ``source`` names the source's model."""
    options, data, attacked = dict(task.context), task.data, dict[str, Any]()
    precision = str(next(candidate.model.model.parameters()).dtype).removeprefix("torch.")
    if precision != "float32":
        options["dtype"] = precision
    if threat is not None:
        options |= threat.settings()
        attacked = {"attack": threat.attack, "norm": threat.norm, "eps": threat.eps}
        attacked |= {"source": threat.source, "seed": seed}
        if threat.source != "self":
            options["source_model"] = source
    return Setting(
        method=candidate.method,
        model=candidate.model.name,
        weights=weights,
        adapter="" if candidate.adapter is None else candidate.adapter.fingerprint,
        task=task.name,
        metric=task.metric,
        dataset=data.name,
        split=data.split,
        n=len(data),
        version=__version__,
        options=options,
        **attacked,
    )

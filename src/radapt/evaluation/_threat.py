"""What candidates are evaluated under: threats, an attack each, and whose gradients it uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

from radapt._version import __version__
from radapt.attacks import Attack, make
from radapt.errors import SettingsError, shown
from radapt.fingerprint import version_of
from radapt.io import fraction
from radapt.models import VLM
from radapt.results import LEFT_OUT, Setting
from radapt.types import Norm

from ._candidates import Candidate
from ._task import Task

__all__ = ["Threat", "depends_on", "setting_of"]

# Of the libraries, whose patches do not change what is computed.
_VERSIONS = {name: ".".join(version(name).split(".")[:2]) for name in ("torch", "transformers")}


_ELSEWHERE = {
    **{name: f"{name}= of the threat" for name in ("eps", "norm", "source", "attack")},
    "name": "attack= of the threat",
    "seed": "seed= of the evaluation",
    "batch_size": "batch_size= of the evaluation",
}
"""What is no option of an attack, and where it is said."""


@dataclass(frozen=True, init=False)
class Threat:
    """An attack and whose gradients it uses.

    Args:
        attack: name of the attack, or the attack itself, which then says its norm, radius and other settings.
        eps: radius of the ball in pixel units, a number or a text such as ``4/255``.
        norm: ``linf`` or ``l2``.
        source: ``self`` (white-box: the attacker sees the whole defended model), ``undefended`` (transfer), or the
            ``method`` of another candidate (transfer).
        options: the attack's other settings (``steps``, ``restarts``...).

    Raises:
        SettingsError: an unknown attack or option, a value out of range, an option that says again what the threat or
            the evaluation says, or settings beside an attack that has its own.
    """

    attack: str | Attack
    eps: float
    source: str
    norm: Norm = "linf"
    options: Mapping[str, object] = field(default_factory=dict, hash=False)  # a mapping has no hash

    def __init__(
        self,
        *,
        attack: str | Attack,
        source: str,
        eps: float | str | None = None,
        norm: Norm | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        eps = fraction(eps) if isinstance(eps, str) else eps
        if not source:
            raise SettingsError("a threat must say whose gradients make the attack: source='self' or 'undefended'")
        values: dict[str, Any] = {"eps": eps, "norm": "linf" if norm is None else norm, "options": dict(options or {})}
        if isinstance(attack, str):
            if eps is None:
                raise SettingsError(f"the threat by {attack} needs a radius, such as eps=4/255")
            _check_options(values["options"])
        else:
            if not isinstance(attack, Attack):
                raise SettingsError(f"a threat needs an attack or the name of one, got {type(attack).__name__}")
            own: dict[str, Any] = {entry.name: getattr(attack, entry.name) for entry in fields(attack)}
            values = {"eps": own.pop("eps"), "norm": own.pop("norm"), "options": own}
            for name, given in (("eps", eps), ("norm", norm), ("options", options)):
                if given is not None and given != values[name]:
                    raise SettingsError(
                        f"an attack that is given as an object says its {name} itself, {name}={values[name]!r}, and "
                        f"the threat says {name}={given!r}; leave {name} out"
                    )
        for name, value in {"attack": attack, "source": source, **values}.items():
            object.__setattr__(self, name, value)
        _check_recorded(self.make())

    @property
    def name(self) -> str:
        """Name of the attack."""
        return self.attack if isinstance(self.attack, str) else self.attack.name

    def make(self, **changes: object) -> Attack:
        """The attack itself, with some settings changed."""
        if not isinstance(self.attack, str):
            changed: Any = changes
            return replace(self.attack, **changed)
        return make(self.attack, **{"eps": self.eps, "norm": self.norm, **self.options, **changes})

    def white_box(self) -> Threat:
        """The same attack with the gradients of what it attacks."""
        other = copy(self)
        object.__setattr__(other, "source", "self")
        return other

    def settings(self) -> dict[str, object]:
        """Every setting of the attack, defaults included, but for its norm and radius."""
        attack = self.make()
        return {f.name: _plain(getattr(attack, f.name)) for f in fields(attack) if f.name not in ("eps", "norm")}


def _plain(value: Any) -> Any:
    """A setting as results record it: of an attack within an attack its class and settings."""
    if not isinstance(value, Attack):
        return value
    own = {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return {"attack": f"{type(value).__module__}.{type(value).__qualname__}", **own}


def _check_recorded(attack: Attack) -> None:
    """Refuse an attack that results would not tell from another.

    Raises:
        SettingsError: it has attributes that are no fields, or a setting that is no plain value.
    """
    kind, names = type(attack), {entry.name for entry in fields(attack)}
    for name in vars(attack):
        if name not in names and not isinstance(getattr(kind, name, None), cached_property):
            raise SettingsError(
                f"{kind.__name__} has the attribute {name}, which is no field: results would not tell one value of it "
                f"from another, and copies would lose it; make it a field of {kind.__name__}, as a frozen dataclass"
            )
    for name in sorted(names):
        value = getattr(attack, name)
        try:
            json.dumps(_plain(value))
        except (TypeError, ValueError):
            raise SettingsError(
                f"{name} of the attack {attack.name} is {shown(value)}: results are kept by their settings, which must "
                "be plain values (numbers, texts, or lists of them)"
            ) from None


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse what a threat or an evaluation says itself: a report would tell one value, and the attack use the other.

    Raises:
        SettingsError: an option is said elsewhere.
    """
    for name, place in _ELSEWHERE.items():
        if name in options:
            raise SettingsError(
                f"{name} is given twice, as {place} and as the option {name}={options[name]!r}; leave the option out"
            )


def depends_on(
    candidate: Candidate,
    source: Candidate | None,
    task: Task,
    threat: Threat | None,
    known: dict[VLM, str],
    version: Callable[[type], str] = version_of,
) -> dict[str, str]:
    """What a result depends on that its setting does not spell out: hashes, and versions of what computes it.

    Args:
        candidate, source: the candidate, and whose gradients make the attack.
        task, threat: what is asked, and under which attack.
        known: hashes by model, added to.
        version: tells the code of a class from what it was before.
    """
    depends = {"content": task.content, "task": version(type(task)), **_VERSIONS}
    if task.data.left_out:  # other positions stand for other samples
        depends[LEFT_OUT] = ", ".join(map(str, task.data.left_out))
    models = {"model": candidate.model}
    if source is not None and source.model is not candidate.model:
        models["source"] = source.model
    for name, model in models.items():
        if model not in known:
            known[model] = model.fingerprint
        depends[name] = known[model]
    if threat is not None:
        attack = threat.make()
        within = [each for entry in fields(attack) if isinstance(each := getattr(attack, entry.name), Attack)]
        depends["attack"] = "+".join(version(type(each)) for each in (attack, *within))
        if source is not None and (half := task.gradients(source.model)):
            depends["gradients"] = half
    return depends


def setting_of(
    candidate: Candidate,
    task: Task,
    threat: Threat | None,
    source: str,
    seed: int,
    chunk_size: int,
    depends: Mapping[str, str],
) -> Setting:
    """The setting of one result; ``threat`` None is the clean result, ``source`` names the source's model."""
    options, data, attacked = dict(task.context), task.data, dict[str, Any]()
    precision = str(candidate.model.dtype).removeprefix("torch.")
    if precision != "float32":
        options["dtype"] = precision
    if threat is not None:
        options |= threat.settings()
        attacked = {"attack": threat.name, "norm": threat.norm, "eps": threat.eps}
        attacked |= {"source": threat.source, "seed": seed}
        if threat.source != "self":
            options["source_model"] = source
    return Setting(
        method=candidate.method,
        model=candidate.model.name,
        adapter="" if candidate.adapter is None else candidate.adapter.fingerprint,
        task=task.name,
        metric=task.metric,
        dataset=data.name,
        split=data.split,
        n=len(data),
        chunk_size=chunk_size,
        version=__version__,
        depends=depends,
        options=options,
        **attacked,
    )

"""The candidates of an experiment, and where each of them stands in a diagram."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from radapt.adapters import REGISTRY as METHODS
from radapt.adapters import Adapter, AdapterMethod, cutoff_from_d0
from radapt.analysis import DIAGRAMS as REPLACEMENTS
from radapt.analysis import stage_candidates
from radapt.data import card
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Threat
from radapt.finetuning import finetune
from radapt.io import digest_of
from radapt.models import VLM, interpolated
from radapt.results import Result
from radapt.results.plots import Curves
from radapt.results.shared import Shared
from radapt.results.sweep import Position, curves
from radapt.schema import check_keywords

from .artifacts import Report, images_of, trained_adapter, trained_twin
from .parts import AttackSpec, DefenceSpec, Sweep, TrainingSpec, names
from .spec import Profile

__all__ = ["Builder", "Comparison", "Diagram"]

_CHANGED = ("alpha", "mix")
"""Settings of an adapter that are changed on it as it was made; ``d0`` is one, too."""


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """Where candidates stand in a diagram.

    Args:
        title: of the diagram.
        x_label: name of its axis.
        positions: where the candidates stand.
        ticks: names of the places on the axis, where they are no numbers.
    """

    title: str
    x_label: str
    positions: list[Position]
    ticks: tuple[str, ...] = ()

    def curves(self, results: Sequence[Result], shared: Shared) -> list[Curves]:
        """It as drawn from some results; nothing where no candidate stands in it."""
        if not self.positions:
            return []
        return curves(results, self.positions, title=self.title, x_label=self.x_label, ticks=self.ticks, shared=shared)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidates that are compared with one undefended model.

    Args:
        base: the undefended model.
        candidates: the lines of the table.
        diagrams: where they stand, one after the other.
    """

    base: VLM
    candidates: list[Candidate]
    diagrams: list[Diagram]


_HANDED = ("n", "device", "out", "half", "checkpoint", "log", "quiet")
"""What fine-tuning takes from the experiment around it."""


class Builder:
    """Makes the models, twins and adapters of a profile, each once.

    Args:
        profile: what is compared.
        model: gives a model by name.
        artifacts: folder of the adapters and twins that are trained on the way.
        report: called with what happens.
        quiet: no progress bars.

    Raises:
        SettingsError: a setting that a method does not take, or a dataset that there is not, before anything is made.
    """

    def __init__(
        self, profile: Profile, model: Callable[[str], VLM], artifacts: Path, *, report: Report, quiet: bool
    ) -> None:
        self._profile, self._model, self._artifacts, self._report, self._quiet = (
            profile,
            model,
            artifacts,
            report,
            quiet,
        )
        self._adapters: dict[str, Adapter] = {}
        self._twins: dict[str, VLM] | None = None
        for title, spec in profile.defences.items():
            if spec.method is not None:
                self._method(title, spec.method, spec.settings)
        for label, training in profile.trained.items():
            check_keywords(label, finetune, training.settings, without=_HANDED)
        parts: list[DefenceSpec | TrainingSpec] = [*profile.defences.values(), *profile.trained.values()]
        swept = profile.sweep.values if profile.sweep is not None and profile.sweep.over == "data" else ()
        for each in chain(*(part.data for part in parts), *map(names, swept)):
            card(each)

    def twins(self) -> dict[str, VLM]:
        """The twins of the profile's first model by label, those that it trains included."""
        if self._twins is not None:
            return self._twins
        profile = self._profile
        base = self._model(next(iter(profile.models.values())))
        twins = {
            label: self._model(twin)
            if isinstance(twin, str)
            else interpolated(base, self._model(twin.twin), twin.weights)
            for label, twin in profile.twins.items()
        }
        for label, training in profile.trained.items():
            slug = "".join(letter if letter.isalnum() else "-" for letter in label)
            folder = self._artifacts / f"{slug}-{digest_of([base.name, str(training)], length=8)}"
            twins[label] = trained_twin(base, training, folder, report=self._report, quiet=self._quiet)
        self._twins = twins
        return twins

    def comparisons(self) -> Iterator[Comparison]:
        """For each undefended model, what is compared with it."""
        profile, twins = self._profile, self.twins()
        for number, (label, name) in enumerate(profile.models.items()):
            yield self._comparison(label, self._model(name), twins if number == 0 else {})

    def _comparison(self, label: str, base: VLM, twins: dict[str, VLM]) -> Comparison:
        profile, sweep = self._profile, self._profile.sweep
        candidates = [Candidate(method=label, model=base)]
        candidates += [Candidate(method=twin, model=each) for twin, each in twins.items()]
        fixed = [candidate.method for candidate in candidates]
        positions, diagrams = list[Position](), list[Diagram]()
        for defence, spec in profile.defences.items():
            model = base if spec.to is None else {label: base, **twins}.get(spec.to)
            if model is None:
                continue  # it stands beside another of the models
            title = f"{label}, {defence}" if len(profile.models) > 1 else defence
            if sweep is None or sweep.over == "attack":
                candidates.append(Candidate(method=title, model=model, adapter=self.adapter(title, spec, model)))
            else:
                positions += self._swept(title, spec, sweep, model, candidates)
        if sweep is not None:
            axis, ticks = sweep.axis
            if sweep.over == "attack":
                positions = [
                    Position(method=each.method, line=each.method, x=x, attack=_measured_with(part))
                    for each in candidates
                    for x, part in zip(axis, profile.attacks, strict=True)
                ]
            else:  # what does not depend on the setting stands beside it as a level line
                ends = dict.fromkeys((axis[0], axis[-1]))
                positions = [Position(method=method, line=method, x=x) for method in fixed for x in ends] + positions
            title = sweep.label[:1].upper() + sweep.label[1:]
            diagrams.append(Diagram(title=title, x_label=sweep.label, positions=positions, ticks=ticks))
        if profile.replacement is not None and label == next(iter(profile.models)):
            others = {twin: self._model(name) for twin, name in profile.replacement.twins.items()}
            for order in profile.replacement.order:
                stages, at, ticks = stage_candidates(label, base, others, order)
                candidates += _new(stages, candidates)
                title, x_label = REPLACEMENTS[order]
                diagrams.append(Diagram(title=title, x_label=x_label, positions=at, ticks=ticks))
        return Comparison(base=base, candidates=candidates, diagrams=diagrams)

    def _swept(
        self, title: str, spec: DefenceSpec, sweep: Sweep, base: VLM, candidates: list[Candidate]
    ) -> Iterator[Position]:
        """Add a defence with every value of a sweep; equal adapters are one candidate at several positions."""
        known = {(each.model.name, each.adapter.fingerprint): each.method for each in candidates if each.adapter}
        for value, x in zip(sweep.values, sweep.axis[0], strict=True):
            method = f"{title}, {sweep.over} {value}"
            adapter = self._with_setting(title, spec, base, sweep.over, value)
            key = base.name, adapter.fingerprint
            if key not in known:
                known[key] = method
                candidates.append(Candidate(method=method, model=base, adapter=adapter))
            yield Position(method=known[key], line=title, x=x)

    def _with_setting(self, title: str, spec: DefenceSpec, base: VLM, over: str, value: Any) -> Adapter:
        """A defence with another value of one setting."""
        if over == "d0":
            return self.adapter(title, spec, base).change(cutoff=cutoff_from_d0(value) if value else None)
        if over in _CHANGED:
            return self.adapter(title, spec, base).change(**{over: value})
        if spec.method is None:
            raise SettingsError(f"{title}: {over} belongs to the making of an adapter, and {spec.adapter} is there")
        if over == "data":
            return self.adapter(title, replace(spec, data=names(value)), base)
        if over in ("n", "guide", "made_on"):
            return self.adapter(title, replace(spec, **{over: value}), base)
        kept = {key: each for key, each in spec.settings.items() if (over, key) != ("cutoff", "d0")}  # one of the two
        return self.adapter(title, replace(spec, settings={**kept, over: value}), base)

    def adapter(self, title: str, spec: DefenceSpec, base: VLM) -> Adapter:
        """The adapter of a defence."""
        key = digest_of([title, str(spec), base.name])
        if key not in self._adapters:
            self._adapters[key] = self._make(title, spec, base if spec.made_on is None else self._model(spec.made_on))
        return self._adapters[key]

    def _method(self, title: str, name: str, given: Mapping[str, Any]) -> tuple[AdapterMethod, dict[str, Any]]:
        method: AdapterMethod = METHODS.get(name)
        return method, method.settings(title, given)

    def _make(self, title: str, spec: DefenceSpec, vlm: VLM) -> Adapter:
        if spec.method is None:
            return Adapter.from_pretrained(str(spec.adapter))
        method, settings = self._method(title, spec.method, spec.settings)
        images = None
        if spec.data and (method.needs_images or settings.get("image") == "mean"):
            images = images_of(spec, vlm, quiet=self._quiet)
        if spec.guide is not None or not method.needs_images or images is None:
            twins = () if spec.guide is None else (self._model(spec.guide),)
            shown = {} if images is None else {"pixels": images.pixels(range(len(images)))}
            return method.make(vlm, *twins, **settings, **shown)
        # Equal trainings of several experiments are one, whatever their names there.
        facts = [vlm.name, "+".join(spec.data), spec.n, settings]
        kind = "anchor" if spec.method == "data-driven" else spec.method
        folder = self._artifacts / f"{kind}-{digest_of(facts, length=8, default=str)}"
        return trained_adapter(method, vlm, images, settings, folder, report=self._report, quiet=self._quiet)


def _new(stages: Sequence[Candidate], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The stages of a replacement that are not there yet: every order ends with the whole twin.

    Raises:
        SettingsError: another model has the name of a stage.
    """
    known = {each.method: each for each in candidates}
    for each in stages:
        other = known.get(each.method)
        if other is not None and (other.adapter is not None or other.model.fingerprint != each.model.fingerprint):
            raise SettingsError(
                f"{each.method!r} is a stage of the replacement, and what the experiment calls so is another model; "
                "give that another name"
            )
    return [each for each in stages if each.method not in known]


def _measured_with(part: AttackSpec) -> dict[str, object]:
    """What results under an attack of a sweep were measured with."""
    threat = Threat(attack=part.attack, eps=part.eps[0], norm=part.norm, source="self", options=part.options)
    return {"attack": threat.name, "norm": threat.norm, "eps": threat.eps, **threat.settings()}

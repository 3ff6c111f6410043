"""The lines of an experiment: its candidates, and where each of them stands in a diagram."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radapt.errors import SettingsError

from ._ingredients import Defence, Replacement, Sweep, check_settings
from ._kept import digest_of, trained, tuned
from ._shared import cutoff_of

if TYPE_CHECKING:
    from radapt.adapt import Adapter
    from radapt.evaluate import Candidate, Threat
    from radapt.models import VLM
    from radapt.plots import Curves
    from radapt.results import Figure, Setting

    from ._experiment import Profile

__all__ = ["Lines", "axis_of", "curves_of", "lines_of", "maker_of", "replacements", "twins_of"]

_CHANGED = ("alpha", "mix")
"""Settings of an adapter that are changed on it as it was made; ``d0`` is one, too."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Candidates that are compared with one undefended model.

    Args:
        base: the undefended model.
        candidates: the lines of the table.
        places: for the diagram: a candidate's method, the line that it belongs to, and its place on the axis.
        ticks: names of the places, where they are no numbers.
    """

    base: VLM
    candidates: list[Candidate]
    places: list[tuple[str, str, float]]
    ticks: tuple[str, ...] = ()


def lines_of(profile: Profile, model: Callable[[str], VLM], made: Path, *, quiet: bool) -> Iterator[Lines]:
    """For each undefended model of a profile, the lines that are compared with it.

    Args:
        profile: what is compared.
        model: gives a model by name.
        made: folder of the adapters and twins that are made on the way.
        quiet: no progress bars.

    Raises:
        SettingsError: a setting that a method does not take, before anything is made.
    """
    from radapt.evaluate import Candidate

    for title, how in profile.defences.items():
        maker_of(title, how)  # what is wrong is said before anything is made
    twins = twins_of(profile, model, made, quiet=quiet)
    several = len(profile.models) > 1
    for number, (label, name) in enumerate(profile.models.items()):
        base, adapters = model(name), _Adapters(model, made, quiet)
        lines = [Candidate(method=label, model=base)]
        if number == 0:
            lines += [Candidate(method=twin, model=each) for twin, each in twins.items()]
        fixed, sweep = [line.method for line in lines], profile.sweep
        places, ticks = list[tuple[str, str, float]](), tuple[str, ...]()
        for defence, how in profile.defences.items():
            title = f"{label}, {defence}" if several else defence
            if sweep is None or sweep.over == "attack":
                lines.append(Candidate(method=title, model=base, adapter=adapters.of(title, how, base)))
            else:
                places += _swept(title, how, sweep, base, adapters, lines)
        if sweep is not None:
            axis, ticks = axis_of(sweep)
            rest = fixed if sweep.over != "attack" else [line.method for line in lines]
            # What does not depend on the setting stands beside it as a level line.
            ends = axis if sweep.over == "attack" else (axis[0], axis[-1])
            places = [(method, method, x) for method in rest for x in dict.fromkeys(ends)] + places
        if profile.replacement is not None and number == 0:
            found, at, ticks = replacements(label, base, profile.replacement, model)
            lines += found
            places += at
        yield Lines(base=base, candidates=lines, places=places, ticks=ticks)


def twins_of(profile: Profile, model: Callable[[str], VLM], made: Path, *, quiet: bool) -> dict[str, VLM]:
    """The twins of a profile's first model by label, those that it trains included; arguments and errors as above."""
    from radapt.finetune import finetune

    for label, training in profile.trained.items():
        check_settings(label, finetune, training.settings)
    base = model(next(iter(profile.models.values())))
    twins = {label: model(name) for label, name in profile.twins.items()}
    for label, training in profile.trained.items():
        folder = made / f"{_slug(label)}-{digest_of([base.name, str(training)])}"
        twins[label] = tuned(base, training, folder, quiet=quiet)
    return twins


def axis_of(sweep: Sweep) -> tuple[list[float], tuple[str, ...]]:
    """Places of a sweep's values, and their names where they are no numbers."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in sweep.values):
        return [float(value) for value in sweep.values], ()
    return [float(at) for at in range(len(sweep.values))], tuple(map(str, sweep.values))


def _swept(
    title: str, how: Defence, sweep: Sweep, base: VLM, adapters: _Adapters, lines: list[Candidate]
) -> Iterator[tuple[str, str, float]]:
    """Add a defence with every value of a sweep to the lines; equal adapters are one line at several places."""
    from radapt.evaluate import Candidate

    known = {line.adapter.fingerprint: line.method for line in lines if line.adapter is not None}
    for value, x in zip(sweep.values, axis_of(sweep)[0], strict=True):
        method = f"{title}, {sweep.over} {value}"
        adapter = adapters.with_setting(title, how, base, sweep.over, value)
        if adapter.fingerprint not in known:
            known[adapter.fingerprint] = method
            lines.append(Candidate(method=method, model=base, adapter=adapter))
        yield known[adapter.fingerprint], title, x


class _Adapters:
    """Makes the adapters of a profile, each once."""

    def __init__(self, model: Callable[[str], VLM], made: Path, quiet: bool) -> None:
        self._model, self._made, self._quiet = model, made, quiet
        self._known: dict[str, Adapter] = {}

    def with_setting(self, title: str, how: Defence, base: VLM, over: str, value: Any) -> Adapter:
        """A defence with another value of one setting."""
        if over in ("d0", "alpha") and not isinstance(value, int | float):
            raise SettingsError(f"the values of a sweep over {over} must be numbers, got {value!r}")
        if over == "d0":
            return self.of(title, how, base).change(cutoff=cutoff_of(value))
        if over in _CHANGED:
            return self.of(title, how, base).change(**{over: value})
        if over in ("n", "guide", "data", "on"):
            return self.of(title, replace(how, **{over: value}), base)
        return self.of(title, replace(how, settings={**how.settings, over: value}), base)

    def of(self, title: str, how: Defence, base: VLM) -> Adapter:
        """The adapter of a defence."""
        key = digest_of([title, str(how), base.name])
        if key not in self._known:
            self._known[key] = self._make(title, how, self._model(how.on) if how.on else base)
        return self._known[key]

    def _make(self, title: str, how: Defence, vlm: VLM) -> Adapter:
        from radapt.data import load_dataset

        maker, settings = maker_of(title, how)
        pixels = None
        if how.method == "data-driven" or settings.get("image") == "mean":
            shown = load_dataset(how.data, split="train", n=how.n, size=vlm.image_size[0])
            pixels = shown.pixels(range(len(shown)))
        if how.method == "model-guided":
            return maker(vlm, self._model(how.guide), **settings, pixels=pixels)
        if how.method == "training-free" or pixels is None:
            return maker(vlm, **settings, pixels=pixels)
        # Equal trainings of several experiments are one, whatever they are called there.
        folder = self._made / f"anchor-{digest_of([vlm.name, how.data, how.n, settings])}"
        return trained(vlm, pixels, settings, folder, quiet=self._quiet)


def maker_of(title: str, how: Defence) -> tuple[Callable[..., Adapter], dict[str, Any]]:
    """The function that makes a defence, and its settings, with ``d0`` as a cut-off.

    Raises:
        SettingsError: a setting that the function does not take, or a value of the wrong kind.
    """
    from radapt.adapt import data_driven, model_guided, training_free

    makers: dict[str, Callable[..., Adapter]]
    makers = {"training-free": training_free, "model-guided": model_guided, "data-driven": data_driven}
    settings = dict(how.settings)
    if "d0" in settings:
        d0 = settings.pop("d0")
        if not isinstance(d0, int | float):
            raise SettingsError(f"{title}: d0 must be a number, 0 for no filter, got {d0!r}")
        settings["cutoff"] = cutoff_of(d0)
    check_settings(title, makers[how.method], settings)
    return makers[how.method], settings


def replacements(
    name: str, base: VLM, how: Replacement, model: Callable[[str], VLM]
) -> tuple[list[Candidate], list[tuple[str, str, float]], tuple[str, ...]]:
    """The base with the stages of its twins: candidates, their places in a diagram, and the names of the stages.

    Args:
        name: method of the base itself, where every line begins.
        base: the undefended model.
        how: the twins and the order.
        model: gives a twin by its name.
    """
    from radapt.analyze import replaced, stages
    from radapt.evaluate import Candidate

    original, *others = stages(base, how.order)
    lines: list[Candidate] = []
    places = [(name, "", 0.0)]  # a line without a name lends its points to all others
    for label, twin in how.twins.items():
        for at, stage in enumerate(others, 1):
            method = f"{label} {stage}"
            made = replaced(base, model(twin), stage, order=how.order)
            lines.append(Candidate(method=method, model=made))
            places.append((method, label, float(at)))
    return lines, places, (original, *others)


def curves_of(
    figures: Sequence[Figure],
    places: Sequence[tuple[str, str, float]],
    *,
    title: str,
    x_label: str,
    ticks: tuple[str, ...] = (),
    attacks: Mapping[float, Collection[Threat]] | None = None,
) -> list[Curves]:
    """The diagrams of figures whose methods have places.

    Args:
        figures: the results.
        places: method, line and place on the axis; a method may have several.
        title: of the diagrams.
        x_label, ticks: name of the axis, and names of the places where they are no numbers.
        attacks: where the axis is the attack, the threats that stand at each place.
    """
    from radapt.report import curves

    shown: list[Figure] = []
    where: dict[str, tuple[str, float]] = {}
    for number, (method, line, x) in enumerate(places):
        alias = f"{method} at place {number}"
        where[alias] = (line, x)
        for figure in figures:
            setting = figure.setting
            if setting.method == method and (attacks is None or figure.kind == "clean"):
                shown.append(replace(figure, setting=replace(setting, method=alias)))
            elif setting.method == method and attacks is not None and any(_is(setting, t) for t in attacks[x]):
                shown.append(replace(figure, setting=replace(setting, method=alias, options={})))
    return curves(shown, where=where, title=title, x_label=x_label, ticks=ticks)


def _is(setting: Setting, threat: Threat) -> bool:
    """Whether a figure was measured under a threat."""
    same = (setting.attack, setting.norm, setting.eps) == (threat.attack, threat.norm, threat.eps)
    return same and all(setting.options.get(key) == value for key, value in threat.settings().items())


def _slug(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text)

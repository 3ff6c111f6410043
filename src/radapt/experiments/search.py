"""Searching for an adapter: many short trainings, the best ones longer, the last ones in full (successive halving)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from radapt.adapters import REGISTRY as METHODS
from radapt.adapters import Adapter, AdapterMethod, adapt
from radapt.data import Dataset, load_dataset, training_images
from radapt.errors import AdapterError, CheckError, InputError, ModelError, SettingsError
from radapt.evaluation import Candidate, evaluate
from radapt.io import expanded, write_json
from radapt.models import VLM, load
from radapt.reports import write_trials
from radapt.results import Results
from radapt.results.intervals import Interval

from .artifacts import seconds_of, trained_adapter
from .parts import Names, names
from .trials import SearchSpec, Trial, drawn_of, read_search, settings_of
from .tune import best_first, means_of, pareto_front

__all__ = ["search"]


def search(
    spec: str | Path | SearchSpec | Mapping[str, Any],
    *,
    out: str | Path = "search",
    progress: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> list[Trial]:
    """Try combinations of an adapter's settings by successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).

    Every trial is trained and compared on validation splits, never on test. Those on the front of clean and white-box
    accuracy go on first, then the others by their score. A trial that fails, as where its training diverges, costs the
    others nothing: ``trials.json`` says why, and it does not go on. An interrupted search continues, and tries what
    failed again.

    Args:
        spec: what is searched, the same as plain values, or the path of a YAML file that holds them.
        out: folder of the adapters, of the results of each round (``rung-1.sqlite``...), of ``trials.json``, and of its
            figure (``trials.png`` and ``.svg``).
        progress: called with a line about every trial.
        quiet: no progress bars.

    Returns:
        Every trial of every round, in order, without those that failed.

    Raises:
        SettingsError: the file is wrong, a setting that the method does not take, a validation set that is one, or all
            trials of a round failed.
        RadaptError: as of the method, and of evaluations.

    Warns:
        UserWarning: trials failed, and there is no ``progress`` to tell it.
    """
    plan = spec if isinstance(spec, SearchSpec) else read_search(spec)
    folder, tell = expanded(out), progress or (lambda text: None)
    method: AdapterMethod = METHODS.get(plan.method)
    if not method.needs_images:
        raise SettingsError(f"{plan.method} is not trained, so there are no steps to search with; take shallow")
    drawn = drawn_of(plan)
    for name, settings in drawn.items():
        method.settings(name, settings_of(plan, settings))
    model = load(plan.model)

    @cache
    def images(data: Names, n: int) -> Dataset:
        return training_images(data, n, size=model.image_size[0], quiet=quiet)

    @cache
    def beginning(recipe: str) -> Adapter:
        return adapt(model=model, **json.loads(recipe))

    found, failed, rows = list[Trial](), list[str](), list[dict[str, Any]]()
    for number, rung in enumerate(plan.rungs):
        size = model.image_size[0]
        sets = [load_dataset(each, split="validation", n=rung.n, size=size, quiet=quiet) for each in plan.validation]
        trials = list[Trial]()
        for name, settings in drawn.items():
            place = folder / f"rung-{number + 1}" / name
            given = {**settings_of(plan, settings), "steps": rung.steps, "seed": plan.seed}
            begun = settings.get("start", plan.settings.get("start"))
            shown = images(names(settings.get("data", plan.data)), settings.get("n", plan.n))
            try:
                if begun is not None:
                    given["start"] = beginning(json.dumps(begun, sort_keys=True))
                taken = method.settings(name, given)
                adapter = trained_adapter(method, model, shown, taken, place, report=tell, quiet=quiet)
                means = _measured(plan, model, adapter, name, sets, folder / f"rung-{number + 1}.sqlite", quiet)
            except (AdapterError, CheckError, InputError, ModelError, SettingsError) as error:
                failed.append(f"round {number + 1}, {name} failed: {error}; {settings}")
                tell(failed[-1])
                rows.append({"name": name, "rung": number, "settings": settings, "failed": str(error)})
                write_json(folder / "trials.json", rows)
                continue
            (clean, *around), (robust, *about) = means
            batch = adapter.settings.origin.get("batch")
            trial = Trial(
                name=name,
                rung=number,
                settings=settings,
                clean=clean,
                robust=robust,
                score=(1 - plan.weight) * clean + plan.weight * robust,
                seconds=seconds_of(place),
                images=min(batch, len(shown)) * rung.steps if isinstance(batch, int) else None,
                changed=100 * adapter.changed(model),
                folder=place,
                clean_interval=(around[0], around[1]),
                robust_interval=(about[0], about[1]),
            )
            trials.append(trial)
            tell(f"round {number + 1}, {name}: clean {clean:.1f}, white-box {robust:.1f}; {settings}")
            rows.append(_row(trial))
            write_json(folder / "trials.json", rows)
        if not trials:
            raise SettingsError(f"every trial of round {number + 1} failed, so that nothing goes on; {failed[-1]}")
        found += trials
        rounds = {f"round {at + 1}": [each for each in found if each.rung == at] for at in range(number + 1)}
        write_trials(rounds, {name: pareto_front(each) for name, each in rounds.items()}, folder)
        kept = _kept(trials, rung.keep)
        drawn = {name: settings for name, settings in drawn.items() if name in kept}
    if failed:
        text = f"{len(failed)} of {len(rows)} trials failed and are left out: {'; '.join(failed)}"
        tell(text)
        if progress is None:
            warnings.warn(text, stacklevel=2)
    return found


def _kept(trials: Sequence[Trial], keep: int) -> set[str]:
    first = [trial.name for trial in pareto_front(trials)]
    others = [trial.name for trial in best_first(trials) if trial.name not in first]
    if len(first) > keep:  # the front itself is too long: its best by score
        first = [trial.name for trial in best_first(pareto_front(trials))]
    return set([*first, *others][:keep])


def _measured(
    plan: SearchSpec, model: VLM, adapter: Adapter, name: str, sets: Sequence[Dataset], file: Path, quiet: bool
) -> tuple[Interval, Interval]:
    """Its clean and its white-box mean over the sets."""
    with Results(file) as results:
        found = evaluate(
            [Candidate(method=name, model=model, adapter=adapter)],
            data=list(sets),
            threats=[plan.threat],
            results=results,
            seed=plan.seed,
            sanity=False,  # whoever wins is judged on test, with them
            quiet=quiet,
        )
        return means_of(results, found)


def _row(trial: Trial) -> dict[str, Any]:
    return {**asdict(replace(trial, folder=Path(trial.folder.name))), "folder": str(trial.folder)}

"""Result cards from results: what each candidate keeps under each threat, for others to put beside their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from radapt.errors import ResultsError, SettingsError, shown
from radapt.io import digest_of
from radapt.registry import nearest
from radapt.results import WORST_CASE, Result, Results, Run
from radapt.results.labels import attack_text, eps_text
from radapt.results.signs import joined

from ._card import LONGEST, About, Attacked, CardResult, ResultCard, Score
from ._columns import plain
from ._files import slugs

__all__ = ["cards_of", "file_names"]

_UNCHANGING = ("training-free", "model-guided", "data-driven")
"""Methods of adapters that are a filter and an anchor: they change no weight."""


def cards_of(results: Sequence[Result], store: Results, about: Mapping[str, About] | None = None) -> list[ResultCard]:
    """A card for each candidate and ball under which it was attacked.

    The robust figure is the worst case of each sample over all attacks in the ball, transferred ones and what the
    sanity checks found included. Scores by other metrics than the main one are left out.

    Args:
        results: of a results file, its worst cases included (:func:`radapt.results.with_worst_cases`).
        store: the file, open, for its notes.
        about: what it does not know, by name of the candidate.

    Raises:
        SettingsError: ``about`` has a name that no candidate has.
        ResultsError: nothing was attacked, or the notes are damaged.
    """
    adapters, runs, about = store.notes.adapters(), store.notes.runs(), about or {}
    by_candidate: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for each in results:
        if each.main:
            by_candidate[each.setting.method, *each.setting.candidate].append(each)
    names = list(dict.fromkeys(own[0].setting.method for own in by_candidate.values()))
    for name in about:
        if name not in names:
            raise SettingsError(f"about: no candidate has the name {shown(name)}{nearest(name, names)}")
    found = []
    for own in by_candidate.values():
        name, model, adapter = own[0].setting.method, own[0].setting.model, own[0].setting.adapter
        settings = {plain(key): plain(v) if isinstance(v, str) else v for key, v in adapters.get(adapter, {}).items()}
        told = about.get(name, About())
        if told.changed is None and settings.get("method") in _UNCHANGING:
            told = replace(told, changed=0.0)
        for norm, eps in dict.fromkeys((r.setting.norm, r.setting.eps) for r in own if r.setting.source):
            kept = [r for r in own if not r.setting.source or (r.setting.norm, r.setting.eps) == (norm, eps)]
            found.append(
                ResultCard(
                    name=_cut(name),
                    model=_cut(model),
                    adapter=plain(adapter),
                    settings=settings,
                    about=told,
                    norm=plain(norm),
                    eps=eps,
                    results=tuple(_results(kept)),
                    versions=_versions(kept, runs),
                    commands=tuple(dict.fromkeys(plain(run.command) for run in runs if run.command)),
                    date=plain(runs[-1].date) if runs else "",
                )
            )
    if not found:
        raise ResultsError("nothing was attacked, so there is nothing to put on a card: `radapt evaluate` attacks")
    return found


def _results(kept: Iterable[Result]) -> Iterable[CardResult]:
    """One entry for each dataset that was attacked, of the results of one candidate in one ball."""
    places: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for each in kept:
        setting = each.setting
        places[setting.task, setting.dataset, setting.split, setting.metric].append(each)
    for place, own in places.items():
        clean = next((each for each in reversed(own) if each.kind == "clean"), None)
        white = [each for each in own if each.kind == "white-box"]
        alone = [each for each in white if each.setting.attack != WORST_CASE]
        transfer = [each for each in own if each.kind == "transfer"]
        if not white and not transfer:
            continue
        worst = _worst(white, transfer)
        judged = white if clean is None else [clean, *white]
        of_all = [each for each in white if each.setting.attack == WORST_CASE] or white  # it has the flags of each
        flags = joined(each.flags for each in (*([] if clean is None else [clean]), *of_all))
        task, dataset, split, metric = map(_cut, place)
        yield CardResult(
            task=task,
            dataset=dataset,
            split=split,
            metric=metric,
            planned=max(each.setting.planned for each in own),
            clean=None if clean is None else _score(clean),
            robust=None if worst is None else _score(worst),
            attacks=tuple(map(_attacked, alone)),
            transfer=tuple(map(_attacked, transfer)),
            flags={plain(name): plain(text) for name, text in flags.items()},
            checked=all(each.checked for each in judged),
        )


def _worst(white: Sequence[Result], transfer: Sequence[Result]) -> Result | None:
    """The worst case, and never more than what an attack on the same number of samples leaves."""
    if not white:
        return None
    whole = next((each for each in reversed(white) if each.setting.attack == WORST_CASE), white[-1])
    return min((each for each in (whole, *white, *transfer) if each.n == whole.n), key=lambda each: each.percent)


def _score(result: Result) -> Score:
    # An interval of a weighted mean may miss its figure by the last digit.
    low, high = min(result.low, result.percent), max(result.high, result.percent)
    return Score(percent=result.percent, low=low, high=high, n=result.n)


def _attacked(result: Result) -> Attacked:
    setting = result.setting
    return Attacked(
        attack=_cut(attack_text(setting)),
        source=_cut(setting.source),
        options=dict(setting.options),
        **vars(_score(result)),
    )


def _cut(text: str) -> str:
    line = plain(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _versions(kept: Iterable[Result], runs: Sequence[Run]) -> dict[str, str]:
    """Versions that the results say they depend on, and those of the last run where they say nothing."""
    told: dict[str, set[str]] = defaultdict(set)
    for each in kept:
        told["radapt"].add(each.setting.version)
        for name in ("torch", "transformers"):
            told[name] |= {each.setting.depends[name]} if name in each.setting.depends else set()
    own = {name: ", ".join(sorted(map(plain, versions))) for name, versions in told.items() if versions}
    return {**({plain(k): plain(v) for k, v in runs[-1].versions.items()} if runs else {}), **own}


def file_names(cards: Sequence[ResultCard]) -> list[str]:
    """A file name for each card: that of its candidate, its ball, and a hash that tells models and adapters apart."""
    identities = [(each.name, each.model, each.adapter, each.norm, each.eps) for each in cards]
    names = [slugs([f"{each.name} {each.norm} {eps_text(each.eps)}"], empty="card")[0] for each in cards]
    return [f"{name}-{digest_of(identity, length=8)}.json" for name, identity in zip(names, identities, strict=True)]

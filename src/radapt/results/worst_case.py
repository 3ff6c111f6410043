"""The worst case: of each sample the lowest score over all attacks in one ball, which is what robust accuracy means."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .labels import attack_text
from .metrics import summarise
from .records import CHECKS, Result, Sample, Setting, image_of
from .signs import flags_of, joined
from .store import Results

__all__ = ["WORST_CASE", "Attacks", "attacks_of", "fewer_attacks", "in_one_ball", "lowest_scores", "with_worst_cases"]

WORST_CASE = "worst case"
"""Stands for the name of the attack in the results of this file."""

Attacks = Counter[tuple[str, tuple[tuple[str, str], ...]]]
"""White-box attacks, by their names and settings, and from how many seeds each was made."""


def with_worst_cases(store: Results, results: Sequence[Result] | None = None) -> list[Result]:
    """All results of a file, and after them the worst cases over their attacks.

    One is made for each candidate, dataset, ball and metric that was attacked white-box and of which that attack is not
    all that is known: several white-box attacks, or an image from another model that fools it where its own attack did
    not. An adversarial example is one whoever made it, the sanity checks included. Where nothing but transfer is known
    there is no worst case. Of each sample only what was measured on one image counts, the one last asked for.

    The setting of a worst case has ``worst case`` for its attack and the names of the attacks, each with its source,
    under ``options``. Its flags are those of all of them, on the samples that count, and two of its own: where a
    white-box attack was tried on some of these samples only, so that the others withstood fewer attacks than are
    named; and where transferred images do better than those of the attacker who sees everything.

    Args:
        store: an open results file.
        results: what ``store.all(checks=True)`` gave; None: it is read here.
    """
    with store.snapshot():
        every = store.all(checks=True) if results is None else results
        worst = [_worst(store, group) for group in in_one_ball(every) if len(group) > 1]
    shown = [result for result in every if result.setting.attack != CHECKS]
    return [*shown, *(each for each in worst if each is not None)]


def in_one_ball(results: Iterable[Result]) -> list[list[Result]]:
    """Results under attack, by candidate, dataset, ball and metric: those that a worst case is over."""
    groups: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result.setting.source:
            groups[*result.setting.ball, result.setting.metric].append(result)
    return list(groups.values())


def lowest_scores(
    store: Results, group: Sequence[Result]
) -> tuple[list[tuple[Result, list[Sample]]], dict[int, tuple[float, Sample]]]:
    """The lowest score of every sample over some results of one candidate in one ball.

    Args:
        store: an open results file.
        group: results of one ball, as :func:`in_one_ball` puts them together; those of the sanity checks count, too.

    Returns:
        The results that had a part in it, each with those of its samples that had; and by position the score with the
        sample that it is from. Nothing where none of them is white-box.
    """
    own = _white_box(group)
    if not own:
        return [], {}
    name = "" if own[0].main else own[0].setting.metric
    most = max(result.setting.n for result in own)
    samples = [(each, store.samples(each.setting)) for each in group]
    # Its image as it was when last attacked white-box: only the attacks on that one are compared.
    asked = sorted((each for each in samples if each[0] in own), key=lambda each: store.asked(each[0].setting))
    data = {sample.position: sample.data for _, own_samples in asked for sample in own_samples}
    scores: dict[int, tuple[float, Sample]] = {}
    used = list[tuple[Result, list[Sample]]]()
    for result, its_samples in samples:
        same = [each for each in its_samples if each.position < most and data.get(each.position) == each.data]
        used += [(result, same)] if same else []
        for sample in same:
            score = sample.also[name] if name else sample.score
            if sample.position not in scores or score < scores[sample.position][0]:
                scores[sample.position] = score, sample
    return used, scores


def attacks_of(settings: Iterable[Setting]) -> Attacks:
    """The white-box attacks among some settings: what was asked for, whatever the sanity checks tried beside it."""
    return Counter(
        (
            attack_text(each),
            tuple((name, json.dumps(value)) for name, value in sorted(each.options.items()) if name != "dtype"),
        )
        for each in settings
        if each.kind == "white-box" and each.attack not in (CHECKS, WORST_CASE)
    )


def fewer_attacks(own: Attacks, every: Attacks) -> str:
    """What a worst case over some attacks lacks, in words; empty for nothing.

    Args:
        own: the attacks that it is over.
        every: all that the worst cases are over which it is compared with, its own included.
    """
    options: dict[str, set[tuple[tuple[str, str], ...]]] = defaultdict(set)
    for name, values in every:
        options[name].add(values)

    def listed(attacks: Attacks, beside: Attacks) -> str:
        texts = []
        for name, values in sorted(attacks):
            common = set.intersection(*map(set, options[name]))
            differs = ", ".join(f"{option}={value}" for option, value in values if (option, value) not in common)
            texts.append(name + f" ({differs})" * bool(differs) + " from more seeds" * ((name, values) in beside))
        return ", ".join(texts)

    missing = every - own
    return f"attacked by {listed(own, Counter())} alone; others by {listed(missing, own)}, too" if missing else ""


def _worst(store: Results, group: Sequence[Result]) -> Result | None:
    """The worst case over some results of one candidate in one ball; None: it is that of the one white-box attack."""
    counted, scores = lowest_scores(store, group)
    used = [result for result, _ in counted]
    own, every = sorted(_white_box(used), key=_order), _white_box(group)
    if not own:
        return None
    ordered = [scores[position] for position in sorted(scores)]
    first = own[0]
    answers = [(sample.label, sample.prediction) for _, sample in ordered]
    images = [image_of(sample.data, sample.position) for _, sample in ordered]
    percent, low, high = summarise(first.setting.metric, [score for score, _ in ordered], answers, images)
    if len(every) == 1 and percent >= first.percent and len(ordered) == first.n:
        return None
    most = max(result.setting.n for result in every)
    attacks = sorted({f"{attack_text(each.setting)} from {each.setting.source}" for each in used})
    flags = joined(
        _flags(store, *each, named=len(own) > 1)
        for each in sorted(counted, key=lambda each: _order(each[0]))
        if each[0] in own
    )
    fewer = [(result, len(samples)) for result, samples in counted if len(samples) < len(ordered) and result in own]
    if fewer:
        texts = sorted(f"{attack_text(result.setting)} on {n} of {len(ordered)}" for result, n in fewer)
        flags["attacks of fewer samples"] = ", ".join(texts)
    best, others = min(own, key=lambda r: r.percent), [each for each in used if each.kind == "transfer"]
    if others and (least := min(others, key=lambda r: (r.high, r.percent))).high < best.low:
        flags["weaker than transfer"] = (
            f"the white-box attack alone leaves {best.percent:.1f} %, images made on another model "
            f"{least.percent:.1f} %: masked gradients, or an attack that has not converged?"
        )
    return Result(
        setting=replace(first.setting, attack=WORST_CASE, options={"attacks": attacks}, n=most),
        n=len(ordered),
        percent=percent,
        low=low,
        high=high,
        seconds=sum(each.seconds for each in used),
        forwards=sum(each.forwards for each in used),
        backwards=sum(each.backwards for each in used),
        flags=flags,
        checked=all(each.checked for each in own),
        main=first.main,
    )


def _order(result: Result) -> tuple[object, ...]:
    """By the attack, its settings and its seed: whichever was made first."""
    setting = result.setting
    return attack_text(setting), json.dumps(dict(setting.options), sort_keys=True), setting.seed, setting.key


def _flags(store: Results, result: Result, samples: Sequence[Sample], *, named: bool) -> dict[str, object]:
    """Flags of a result on the samples that count, and of its checks; ``named``: with the name of its attack."""
    signs = flags_of([",".join(each.signs) for each in samples], [each.iterations for each in samples])
    flags = joined([signs, store.flags(result.setting)])
    return {name: f"{attack_text(result.setting)}: {text}" if named else text for name, text in flags.items()}


def _white_box(results: Iterable[Result]) -> list[Result]:
    """Those of attacks on the candidate itself, what the sanity checks found beside them left out."""
    return [each for each in results if each.kind == "white-box" and each.setting.attack != CHECKS]

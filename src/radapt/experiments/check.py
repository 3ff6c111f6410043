"""The check: one model under several attacks, and what may be claimed of it, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from radapt.attacks import Attack
from radapt.errors import SettingsError
from radapt.evaluation import (
    Candidate,
    CandidateLike,
    ModelLike,
    Models,
    Threat,
    candidates_of,
    check_loading,
    evaluate,
    one_cluster,
    threats_of,
)
from radapt.io import expanded, write_bytes, write_json
from radapt.numbers import number
from radapt.reports import LEGEND, Claim, Figure, claims_of, figures_of, write_report
from radapt.results import CHECKS, WORST_CASE, Comparison, Result, Results, paired_tests
from radapt.results.labels import ball_text
from radapt.types import Executor, Norm, Split

__all__ = ["ATTACKS", "OPTIONS", "Check", "check"]

ATTACKS = ("autoattack", "low-frequency")
"""The ensemble that the field compares by, gradients and queries, and one that gets through filters."""
OPTIONS: Mapping[str, object] = {"autoattack.version": "fast"}
"""Their settings, where nothing else is asked for: searches without prospect are given up."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check found.

    Args:
        candidate: the name of what was checked.
        threat: the ball, in words.
        claims: what may be claimed of it, and what not.
        figures: what it keeps on each dataset.
        fail_under: the robust accuracy that was asked for, in per cent; None: none was.
        results: all results, those of the model without its defence included.
        file: the results file.
        written: the files of the report, and the images.
    """

    candidate: str
    threat: str
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    fail_under: float | None
    results: tuple[Result, ...]
    file: Path
    written: tuple[Path, ...]

    @property
    def reason(self) -> str:
        """Why the check fails; empty where it passes, or nothing was asked for."""
        if self.fail_under is None:
            return ""
        low = min(self.figures, key=lambda figure: figure.robust[0])
        if low.robust[0] < self.fail_under:
            asked = f"{self.fail_under:g} % were asked for"
            return f"on {low.title} {low.robust[0]:.1f} % withstand every attack, and {asked}"
        doubtful = next((figure for figure in self.figures if not figure.trusted), None)
        if doubtful is None:
            return ""
        return f"on {doubtful.title} {doubtful.doubt}, so that {doubtful.robust[0]:.1f} % is no more than a bound"

    @property
    def passed(self) -> bool:
        """Whether ``fail_under`` per cent withstand every attack on every dataset, and nothing speaks against that."""
        return not self.reason

    @property
    def text(self) -> str:
        """The claims and the figures, to be pasted."""
        lines = [f"{self.candidate}, {self.threat}", ""]
        lines += [f"- {claim}" for claim in self.claims]
        lines += ["", LEGEND]
        if self.fail_under is not None:
            outcome = "passed" if self.passed else f"FAILED: {self.reason}"
            lines += ["", f"At least {self.fail_under:g} % asked for: {outcome}."]
        return "\n".join(lines) + "\n"

    def facts(self) -> dict[str, object]:
        """All of it as plain values, for JSON."""
        return {
            "candidate": self.candidate,
            "threat": self.threat,
            "claims": [asdict(claim) for claim in self.claims],
            "figures": [asdict(figure) for figure in self.figures],
            "fail_under": self.fail_under,
            "passed": self.passed,
            "reason": self.reason,
            "results": [result.row() for result in self.results],
        }


def check(
    model: CandidateLike,
    *,
    data: Any = "shapes",
    attack: str | Attack | Sequence[str | Attack] = ATTACKS,
    eps: float | str | None = None,
    norm: Norm | None = None,
    options: Mapping[str, object] | None = None,
    undefended: ModelLike | None = None,
    fail_under: float | None = None,
    images: str | Path | None = None,
    out: str | Path = "radapt-check",
    n: int | None = 100,
    split: Split = "test",
    seed: int = 0,
    batch_size: int = 32,
    executor: Executor = "local",
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
    models: Models | None = None,
    quiet: bool = False,
    **loading: Any,
) -> Check:
    """Attack one model in several ways, and say what may be claimed of it.

    Every attack is made on the model itself, with its defence (white-box); the first one on the undefended model, too
    (transfer; of AutoAttack the ensemble of APGD). Of each sample the worst case counts, over all attacks and what the
    sanity checks find. The model without its defence, or ``undefended``, is measured beside it on the same samples,
    under the first attack. An interrupted check continues.

    Args:
        model: what is checked: a candidate of :func:`radapt.evaluate`, such as ``MODEL+ADAPTER``.
        data, n, split: as of :func:`radapt.evaluate`.
        attack: the attacks, the first of them one that follows gradients.
        eps, norm: the ball, in pixel units; None: 4/255 and ``linf``, or what an attack that is an object says.
        options: settings of the attacks, as of :func:`radapt.evaluate`; AutoAttack is its version ``fast`` here.
        undefended: whose images are transferred, and what the model is compared with; None: the model itself without
            its defence, if it has one.
        fail_under: the robust accuracy, in per cent, that it must keep on each dataset, without a flag, to pass.
        images: folder for the attacked images, as far as they are kept; None: they stay in the results file.
        out: folder of the results file and the report.
        seed, batch_size, executor, workers, resources, models, quiet, loading: as of :func:`radapt.evaluate`.

    Raises:
        SettingsError: several models, a number out of range, or an unknown keyword.
        RadaptError: as of :func:`radapt.evaluate`.
    """
    if fail_under is not None:
        number("fail_under", fail_under, 0, 100)
    check_loading(check, loading, (model, undefended), models)
    loader = models or Models(loading)
    found = candidates_of(model, loader)
    if len(found) != 1:
        raise SettingsError(f"a check is of one model, got {len(found)}; compare several with radapt.evaluate")
    (candidate,) = found
    base = _base(candidate, undefended, loader)
    attacks = [attack] if isinstance(attack, str | Attack) else list(attack)
    threats = _threats(attacks, eps, norm, options or {})
    first = threats[0]
    asked: dict[str, Any] = {"data": data, "n": n, "split": split, "seed": seed, "batch_size": batch_size}
    asked |= {"executor": executor, "workers": workers, "resources": resources, "models": loader, "quiet": quiet}
    folder, results = expanded(out), list[Result]()
    with Results(folder / "results.sqlite") as store, one_cluster():
        if base is not None:  # first: it is quickly done, and shows whether the attack is one
            results += evaluate(base, threats=[first], results=store, **asked)
            threats += [_transferred(first)]
            asked["undefended"] = base.model
        own = evaluate(candidate, threats=threats, results=store, **asked)
        tests = _compared(store, own, results) if base is not None else []
        kept = [] if images is None else _saved(store, own, expanded(images))
    figures = tuple(figures_of(own))
    names = ", ".join(dict.fromkeys(name for figure in figures for name in figure.attacks))
    return Check(
        candidate=candidate.method,
        threat=f"{ball_text(first.norm, first.eps)}, {names}",
        claims=tuple(claims_of(figures, tests, candidate.method, None if base is None else base.method)),
        figures=figures,
        fail_under=fail_under,
        results=(*results, *own),
        file=folder / "results.sqlite",
        written=(*write_report(folder / "results.sqlite", folder / "report"), *kept),
    )


def _base(candidate: Candidate, undefended: ModelLike | None, models: Models) -> Candidate | None:
    """What the model is compared with, and attacked from: one without a defence; None where it is that itself."""
    if undefended is None and candidate.adapter is None:
        return None
    model = candidate.model if undefended is None else models.get(undefended)
    if model is candidate.model and candidate.adapter is None:
        return None
    return Candidate(method=f"{model.name}, undefended", model=model)


def _compared(store: Results, own: Sequence[Result], base: Sequence[Result]) -> list[Comparison]:
    """Paired tests of what was checked with what it is compared with: of this check, whatever else the file holds.

    Of what was checked, all that is known in the ball counts, as in its robust accuracy; of the other one, what its
    first attack and the checks of that left. So nothing that was measured for another check helps the defence.
    """
    asked = {each.setting.key for each in (*own, *base)}
    balls = {each.setting.ball for each in own if each.kind == "white-box"}
    beside = [(each.setting.ball, {"of": each.setting.attack, **each.setting.options}) for each in base]

    def counts(result: Result) -> bool:
        setting = result.setting
        found = setting.attack == CHECKS and (setting.ball, dict(setting.options)) in beside
        return setting.key in asked or setting.ball in balls or found

    return paired_tests(store, [each for each in store.all(checks=True) if counts(each)], uneven=True)


def _threats(
    attacks: Sequence[str | Attack], eps: float | str | None, norm: Norm | None, options: Mapping[str, object]
) -> list[Threat]:
    """Every attack by one who sees everything.

    Raises:
        SettingsError: there is none, they are not all in one ball, or as of :func:`radapt.evaluate`.
    """
    names = [each for each in attacks if isinstance(each, str)]
    usual = dict[str, object]()
    for key, value in OPTIONS.items():
        name, _, option = key.partition(".")
        if name in names and option not in options:  # what is asked for all attacks counts for this one, too
            usual[key] = value
    threats = threats_of(attacks, eps, norm, "self", {**usual, **options}, None)
    if not threats:
        raise SettingsError("a check needs at least one attack")
    if len(balls := dict.fromkeys((each.norm, each.eps) for each in threats)) > 1:
        named = ", ".join(ball_text(*ball) for ball in balls)
        raise SettingsError(f"a check is of attacks in one ball, got {named}; check each ball by itself")
    return threats


def _transferred(first: Threat) -> Threat:
    """The attack whose images are transferred: the first, but of AutoAttack its first half, the ensemble of APGD.

    Where the undefended model stands, the other half takes most of the time, for images that fool nobody.
    """
    if first.name != "autoattack":
        return replace(first, source="undefended")
    return Threat(attack="apgd-ensemble", eps=first.eps, norm=first.norm, source="undefended")


def _saved(store: Results, results: Sequence[Result], folder: Path) -> list[Path]:
    """The images that are kept, before and after each attack, and a list of them."""
    written, rows = list[Path](), list[dict[str, object]]()
    for result in results:
        setting = result.setting
        if result.kind == "clean" or setting.attack == WORST_CASE or not result.main:
            continue
        for example in store.examples(setting, shown=True):
            stem = f"{setting.dataset}-{setting.attack}-from-{setting.source}-{setting.key[:12]}-{example.position}"
            stem = re.sub(r"[^\w.-]+", "_", stem)
            names = {which: f"{stem}-{which}.png" for which in ("clean", "adversarial")}
            written += [write_bytes(folder / names[which], getattr(example, which)) for which in names]
            rows.append(
                {"dataset": setting.dataset, "split": setting.split, "task": setting.task}
                | {"attack": setting.attack, "source": setting.source, "norm": setting.norm, "eps": setting.eps}
                | {"options": dict(setting.options), "seed": setting.seed}
                | {"position": example.position, "truth": example.truth, "before": example.before}
                | {"after": example.after, **names}
            )
    return [write_json(folder / "images.json", rows), *written]

"""The records of a results file: settings, samples, example images, and the results that are computed from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from radapt.io import digest_of

__all__ = ["KINDS", "Example", "Kind", "Result", "Sample", "Setting"]

Kind = Literal["clean", "transfer", "white-box"]
"""Whether there was an attack, and whether it was made on the evaluated model itself (white-box) or on another."""

KINDS: tuple[Kind, ...] = ("clean", "transfer", "white-box")
"""All kinds, in the order of tables and legends."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that one result depends on.

    Texts that do not apply are empty and not None: they are part of ``key``, under which results are stored.

    Args:
        method: name of the defended model in reports (``R-Adapt_CLIP``).
        model: name or path of the model.
        weights: hash of its weights, followed by a colon and that of the source's where that is another model.
        adapter: fingerprint of the attached adapter; empty for none.
        task, dataset, split, n: what was asked, on which samples (the first ``n`` of the split).
        metric: what the score of a sample, and so the result, measures.
        attack: name of the attack; ``none`` for the clean result.
        norm, eps: the ball, eps in pixel units (4/255 = 0.0157); empty and 0 for the clean result.
        source: whose gradients made the attack: ``self`` (white-box), ``undefended`` (transfer from the model
            without its adapter or fine-tuning), the name of another model; empty for the clean result.
        options: the attack's other settings.
        seed: seed of the per-sample random numbers.
        version: version of the library.
    """

    method: str
    model: str
    weights: str = ""
    adapter: str = ""
    task: str = "zero-shot"
    dataset: str
    split: str = "test"
    n: int
    metric: str = "top-1"
    attack: str = "none"
    norm: str = ""
    eps: float = 0.0
    source: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    version: str

    @property
    def key(self) -> str:
        """Hash of the setting without its label, its ``n`` and its metric: more samples extend a result."""
        content = {name: value for name, value in asdict(self).items() if name not in ("method", "n", "metric")}
        return digest_of(content)

    @property
    def kind(self) -> Kind:
        """``clean``, ``white-box`` or ``transfer``, by the source of the attack."""
        if not self.source:
            return "clean"
        return "white-box" if self.source == "self" else "transfer"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was measured on one sample under one setting.

    Args:
        position: its place in the split, from 0.
        label, prediction: the true and the predicted class, or what stands for them in the task.
        score: by the setting's metric.
        also: scores by other metrics, by their names.
        answer: what the model said; empty where it gives no text.
        loss: the attack's loss; None without an attack.
        iterations, forwards, backwards: of the attack: its steps and the passes of the model.
        distance: size of the perturbation in the setting's norm, in pixel units.
    """

    position: int
    label: int
    prediction: int
    score: float
    also: Mapping[str, float] = field(default_factory=dict)
    answer: str = ""
    loss: float | None = None
    iterations: int = 0
    forwards: int = 0
    backwards: int = 0
    distance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image before and after the attack (PNG bytes), with the true answer and the model's before and after."""

    position: int
    clean: bytes
    adversarial: bytes
    truth: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number and the setting that it depends on; see :func:`radapt.results.summarise`.

    Args:
        setting: what was measured, and how.
        n: number of samples that were measured; less than ``setting.n`` while a run is unfinished.
        percent: the result in per cent: an accuracy, or the mean score by another metric (CIDEr x 100).
        low, high: limits of its 95 % interval, in per cent.
        seconds: time that the samples took, over all runs that added some.
        forwards, backwards: passes of the model, summed over the samples.
        flags: what the sanity checks found, by their names; empty when nothing is wrong.
        main: whether the metric is the setting's own; False for one that was measured beside it, which
            ``setting.metric`` then names.
    """

    setting: Setting
    n: int
    percent: float
    low: float
    high: float
    seconds: float
    forwards: int
    backwards: int
    flags: Mapping[str, object]
    main: bool = True

    @property
    def kind(self) -> Kind:
        """``clean``, ``transfer`` or ``white-box``; only a white-box result is a robust accuracy."""
        return self.setting.kind

    def row(self) -> dict[str, object]:
        """The result as one flat JSON object."""
        setting = asdict(self.setting)
        options = json.dumps(setting.pop("options"), sort_keys=True)
        numbers = {"percent": self.percent, "low": self.low, "high": self.high, "n": self.n, "main": self.main}
        passes = {"seconds": self.seconds, "forwards": self.forwards, "backwards": self.backwards}
        flags = "; ".join(f"{name}: {value}" for name, value in self.flags.items())
        return {**setting, "kind": self.kind, **numbers, **passes, "options": options, "flags": flags}

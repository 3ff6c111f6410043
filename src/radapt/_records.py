"""The records of a results file: settings, samples, example pictures, and the figures that are drawn from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["Example", "Figure", "Sample", "Setting"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that one figure depends on.

    Args:
        method: how the defended model is called in reports (``R-Adapt_CLIP``).
        model: name or path of the model.
        weights: hash of its weights, and behind a colon of those of a source that is another model.
        adapter: fingerprint of the attached adapter; empty for none.
        task, dataset, split, n: what was asked, on which samples (the first ``n`` of the split).
        metric: what the score of a sample, and so the figure, measures.
        attack: name of the attack; ``none`` for the clean figure.
        norm, eps: the ball, eps in pixel units (4/255 = 0.0157); 0 for the clean figure.
        source: whose gradients made the attack: ``self`` (white-box), ``undefended`` (transfer from the model
            without its adapter or fine-tuning), the name of another model; empty for the clean figure.
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
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Result of one sample under one setting; ``distance`` is in the setting's norm, in pixel units.

    ``score`` is that of the setting's metric, ``also`` those of others, and ``answer`` what the model said.
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
    """A picture before and after the attack (PNG bytes), with what the model said."""

    position: int
    clean: bytes
    adversarial: bytes
    truth: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A setting with its result in per cent and its 95 % interval; see :func:`radapt.results.summarise`.

    ``main`` is false for a metric that was measured beside the setting's own; ``setting.metric`` then names it.
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
    def kind(self) -> str:
        """``clean``, ``white-box`` or ``transfer``."""
        return {"": "clean", "self": "white-box"}.get(self.setting.source, "transfer")

    def row(self) -> dict[str, object]:
        """The figure as one flat JSON object."""
        setting = asdict(self.setting)
        options = json.dumps(setting.pop("options"), sort_keys=True)
        figures = {"percent": self.percent, "low": self.low, "high": self.high, "n": self.n, "main": self.main}
        passes = {"seconds": self.seconds, "forwards": self.forwards, "backwards": self.backwards}
        flags = "; ".join(f"{name}: {value}" for name, value in self.flags.items())
        return {**setting, "kind": self.kind, **figures, **passes, "options": options, "flags": flags}

"""The results that an evaluation makes, as plain values that any process can be told, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from radapt.io import digest_of
from radapt.results import CHECKS, Example, Sample, Setting
from radapt.text import one_line

__all__ = ["Checked", "Measured", "Unit"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One result to be made: a candidate on a dataset under a threat, or clean.

    Args:
        number: its place in the plan.
        setting: of the result.
        clean: setting of the clean result of the same candidate on the same dataset, which is made first; None for a
            clean result.
        digests: hash of each sample.
        white_box: whether the attacker sees the candidate itself.
        shared: equal for units whose attacked images are the same, by transfer from one source; empty otherwise.
        undefended: whether this is the undefended model itself.
        low: the highest score that an attack is content with.
        adapter: settings of the adapter that may be compared.
    """

    number: int
    setting: Setting
    clean: Setting | None
    digests: tuple[str, ...]
    white_box: bool
    shared: str
    undefended: bool
    low: float
    adapter: Mapping[str, float | str] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """Hash of all that its samples depend on: the setting, and the data."""
        return digest_of([self.setting.key, *self.digests])

    @property
    def found(self) -> Setting:
        """The setting of what the sanity checks of this result find beyond it."""
        return replace(self.setting, attack=CHECKS, options={"of": self.setting.attack, **self.setting.options})

    def __str__(self) -> str:
        setting = self.setting
        what = "clean" if self.clean is None else f"{setting.attack} from {setting.source}"
        return one_line(f"{setting.dataset} · {setting.method} · {what}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One chunk of a unit, measured.

    Args:
        samples: all samples of the chunk.
        examples: images that are kept.
        seconds: that it took.
    """

    samples: Sequence[Sample]
    examples: Sequence[Example]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The sanity checks of a unit.

    Args:
        flags: what they found wrong.
        samples: those that they fooled where the attack did not.
        seconds: that they took.
    """

    flags: Mapping[str, object] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    seconds: float = 0.0

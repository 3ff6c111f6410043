"""Signs of a failing attack, stored with each sample, and the flags of a result that follow from all of its samples.

They are counted when a result is read, so that a result has the same flags whoever measured which part of it, in which
order and after which interruptions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

__all__ = ["SIGNS", "Sign", "flags_of", "joined"]

Sign = Literal[
    "flat",
    "zero gradient",
    "failed",
    "unconfirmed",
    "without gradients",
    "audited",
    "misjudged",
    "8 bits",
    "not finite",
]
"""What may be odd about a sample: the loss did not rise; gradients were zero; the search ended early, as loss or
gradient were not finite; a success was not confirmed by a fresh pass; a search without gradients fooled it where those
with gradients had not; a search without prospect went on as a check, and then succeeded; the image does not fool once
it is rounded to 8 bits; the model put out NaN."""

SIGNS: tuple[Sign, ...] = get_args(Sign)
"""All signs."""

_OF_ATTACKS = frozenset(SIGNS) - {"not finite"}
_SHARE = 0.05
"""Share of the attacked samples above which what happens now and then is a flag."""


def flags_of(signs: Sequence[str], iterations: Sequence[int]) -> dict[str, object]:
    """The flags of a result, which say how many samples were attacked; empty when nothing is wrong.

    Args:
        signs: those of each sample, as they are stored: with commas between them.
        iterations: steps of the attack on each sample.
    """
    if not any(signs):
        return {}
    each = [text.split(",") if text else [] for text in signs]
    counts = Counter(sign for those in each for sign in those)
    # Without a step where the first point fooled: all that is odd about such a sample is of an attack, too.
    attacked = sum(
        steps > 0 or not _OF_ATTACKS.isdisjoint(those) for steps, those in zip(iterations, each, strict=True)
    )
    some, of = _SHARE * attacked, f"of {attacked} attacked samples"
    flags: dict[str, object] = {}
    if (count := counts["flat"]) > some:
        flags["loss not rising"] = f"the loss did not rise on {count} {of}"
    if (count := counts["zero gradient"]) > some:
        flags["zero gradient"] = f"gradients were zero on {count} {of}"
    if count := counts["failed"]:
        flags["failed"] = f"the search ended early on {count} {of}: loss or gradient not finite"
    if count := counts["unconfirmed"]:
        flags["unconfirmed"] = f"a fresh pass did not confirm the success on {count} {of}"
    if (count := counts["without gradients"]) > max(1, 0.01 * attacked):
        flags["square beats gradients"] = f"{count} {of} were fooled without gradients only: masked gradients?"
    if count := counts["misjudged"]:
        flags["abandoned too early"] = (
            f"{count} of {counts['audited']} checked searches succeeded after others like them would have been "
            "abandoned; let all run to their end (version=standard of autoattack, growth=None of other attacks)"
        )
    if (count := counts["8 bits"]) > some:
        flags["8 bits"] = f"{count} {of} are no longer fooled once their images are rounded to 8 bits"
    if count := counts["not finite"]:
        flags["not finite"] = f"NaN on {count} of {len(each)} samples, counted as wrong"
    return flags


def joined(flags: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Flags from several places as one: the texts of one name one after the other, in alphabetical order whoever was
    first, and none of them twice, nor one that another one has in it."""
    texts: dict[str, set[str]] = defaultdict(set)
    for each in flags:
        for name, text in each.items():
            texts[name].add(str(text))
    return {
        name: "; ".join(sorted(text for text in those if not any(text in other for other in those - {text})))
        for name, those in texts.items()
    }

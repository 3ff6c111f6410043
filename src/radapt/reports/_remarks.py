"""Remarks: what a reader must know about a table as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radapt.results import WORST_CASE, Result
from radapt.results.shared import Shared

from ._columns import Column, options_text, plain

__all__ = ["remarks"]

_MOST_NAMED = 20


def remarks(
    results: Sequence[Result],
    shown: Sequence[Result],
    columns: Sequence[Column],
    order: Sequence[Any],
    threats: Sequence[Any],
    shared: Shared,
) -> list[str]:
    """What a reader must know about the table as a whole.

    Args:
        results: all that there are.
        shown: those in a cell.
        columns, order: the columns, and the threat of each.
        threats: of each of the results.
        shared: which datasets share images.
    """
    said = ["Results in per cent with 95 % intervals (Wilson; square-and-add for means)."]
    attacks = dict.fromkeys(result.setting.attack for result in results if result.setting.source)
    if WORST_CASE in attacks:
        del attacks[WORST_CASE]
        said.append(
            "Worst case: of each sample the lowest score over all attacks in the ball, transferred ones included."
        )
    unchecked = sum(not result.checked for result in shown)
    said.append(
        f"The sanity checks were not made on {unchecked} of {len(shown)} results: no flags mean nothing there."
        if unchecked
        else "The sanity checks were made on all results."
    )
    lost = dict.fromkeys((each.setting.dataset, each.setting.left_out) for each in shown if each.setting.left_out)
    for dataset, numbers in lost:
        named = ", ".join(map(str, numbers[:_MOST_NAMED])) + ("..." if len(numbers) > _MOST_NAMED else "")
        said.append(f"{plain(dataset)}: {len(numbers)} images cannot be read and are left out (samples {named}).")
    if shared.pairs:
        named = "; ".join(sorted(" and ".join(sorted({place[1] for place in pair})) for pair in shared.pairs))
        said.append(f"These data sets share images, which the intervals of means allow for: {plain(named)}.")
    if len(attacks) == 1:
        said.append(f"Attack: {plain(*attacks)}.")
    if len(shown) < len(results):
        said.append(f"{len(results) - len(shown)} earlier results of the same cells are left out (older versions).")
    for column, threat in zip(columns, order, strict=True):
        if threat[4] == WORST_CASE:
            continue
        own = [result for result, other in zip(results, threats, strict=True) if other == threat]
        options = {options_text(result.setting.options) for result in own}
        if len(options) > 1:
            said.append(f"{column.title}: the attack's settings are not the same for every result; see the settings.")
    return said

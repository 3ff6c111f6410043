"""The leaderboard: result cards beside each other, by dataset and radius, as one page that needs nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from radapt._version import __version__
from radapt.results.labels import ball_text
from radapt.results.worst_case import fewer_attacks

from ._card import Attacked, CardResult, ResultCard, Score, read_cards
from ._columns import plain
from ._files import write
from ._page import render

__all__ = ["Board", "Entry", "boards_of", "write_leaderboard"]


_Line = tuple[int, ResultCard, CardResult]
"""Number of a card, the card, and one of its results."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A candidate's line on a board.

    Args:
        number: of its card, from 1.
        name: of the candidate.
        rank: its place, from 1; None: it is not ranked, as ``doubts`` say.
        clean, robust, autoattack, transfer: its figures; of several transfers the lowest.
        attacks: the attacks that the robust figure is over, in words.
        version: which AutoAttack it was, in words; others than the standard one are weaker, or not comparable.
        changed: share of the vision encoder's weights that it changes, in per cent.
        doubts: what speaks against the robust figure.
    """

    number: int
    name: str
    rank: int | None
    clean: Score | None
    robust: Score | None
    autoattack: Attacked | None
    transfer: Attacked | None
    attacks: str
    version: str
    changed: float | None
    doubts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Board:
    """The candidates on one dataset in one ball, in the order of what is left against an attacker who knows them."""

    dataset: str
    what: str
    threat: str
    entries: tuple[Entry, ...]


def write_leaderboard(
    cards: str | Path | Iterable[str | Path], out: str | Path = "leaderboard.html", *, title: str = "Leaderboard"
) -> Path:
    """Write one HTML page that compares result cards, and return its path.

    By dataset and radius, in the order of white-box accuracy: first the candidates whose figures may be trusted, with
    their ranks, then those with flags, without checks, of fewer samples than were asked for, or under fewer attacks
    than others of the board, then those that were never attacked white-box. What withstands attacks made on another
    model stands beside, and decides nothing.

    Args:
        cards: folder of the cards, or several, or single files. They may be others'.
        out: the page; its folder is created when missing.
        title: heading of the page.

    Raises:
        ResultsError: there is no card, one is not of the format (its file and what is wrong are named), or the page
            cannot be written.
    """
    read = read_cards(cards)
    boards = boards_of(list(read.values()))
    text = render(
        "leaderboard.html",
        title=plain(title),
        boards=boards,
        datasets=list(dict.fromkeys(board.dataset for board in boards)),
        threats=list(dict.fromkeys(board.threat for board in boards)),
        cards=[(number, plain(Path(file).name), _shown(card)) for number, (file, card) in enumerate(read.items(), 1)],
        shades=(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )
    (path,) = write(Path(out).parent, {Path(out).name: text.encode()})
    return path


def boards_of(cards: Iterable[ResultCard]) -> list[Board]:
    """The boards of some cards: datasets in the order in which cards name them, each by radius, small ones first."""
    found: dict[tuple[str, ...], dict[str, list[_Line]]] = {}
    for number, card in enumerate(cards, 1):
        for result in card.results:
            ball = ball_text(card.norm, card.eps)  # radii that read the same are the same
            found.setdefault(result.place, {}).setdefault(ball, []).append((number, card, result))
    return [
        Board(
            dataset=plain(f"{dataset} ({split})" if split != "test" else dataset),
            what=plain(f"{task}, {metric}"),
            threat=plain(ball),
            entries=_entries(lines),
        )
        for (task, dataset, split, metric), balls in found.items()
        for ball, lines in sorted(balls.items(), key=_radius)
    ]


def _radius(board: tuple[str, list[_Line]]) -> tuple[str, float]:
    _, card, _ = board[1][0]
    return card.norm.lower(), card.eps


def _entries(lines: Sequence[_Line]) -> tuple[Entry, ...]:
    entries = []
    above: list[float] = []
    doubts = {number: [*result.doubts, *_weaker(result, lines)] for number, _, result in lines}
    for number, card, result in sorted(lines, key=lambda line: _order(line, doubts[line[0]])):
        rank = None
        if result.robust and not doubts[number]:
            above.append(result.robust.percent)
            rank = 1 + sum(other > above[-1] for other in above)
        entries.append(
            Entry(
                number=number,
                name=plain(card.name),
                rank=rank,
                clean=result.clean,
                robust=result.robust,
                autoattack=result.autoattack,
                transfer=min(result.transfer, key=lambda each: each.percent, default=None),
                attacks=plain(", ".join(dict.fromkeys(each.attack for each in result.attacks))),
                version=_version(result.autoattack),
                changed=None if card.about.changed is None else 100 * card.about.changed,
                doubts=tuple(map(plain, doubts[number])),
            )
        )
    return tuple(entries)


def _version(attack: Attacked | None) -> str:
    if attack is None:
        return ""
    version, steps = attack.options.get("version", attack.attack), attack.options.get("steps")
    return plain(f"{version}, {steps} steps" if steps else str(version))


def _weaker(result: CardResult, lines: Iterable[_Line]) -> list[str]:
    """Why a figure may be higher than others of a board for its attacks alone: others were attacked by all of them and
    more, or by AutoAttack."""
    if result.robust is None:
        return []
    own = {each.attack for each in result.attacks}
    others = [{each.attack for each in other.attacks} for _, _, other in lines]
    every = own.union(*(each for each in others if each > own), *(each & {"autoattack"} for each in others))
    text = fewer_attacks(Counter((name, ()) for name in own), Counter((name, ()) for name in every))
    return [text] if text else []


def _order(line: _Line, doubts: Sequence[str]) -> tuple[bool, bool, float, int]:
    """What may be trusted first, then what was measured at all, the highest worst case first."""
    number, _, result = line
    percent = result.robust.percent if result.robust else -math.inf
    return result.robust is None, bool(doubts), -percent, number


def _shown(card: ResultCard) -> Mapping[str, str]:
    """What a card tells of its candidate, by name; what it does not tell is left out."""
    changed = "" if card.about.changed is None else f"{100 * card.about.changed:.3g} % of the vision encoder's weights"
    told = {
        "name": card.name,
        "paper": card.about.paper,
        "authors": card.about.authors,
        "venue": card.about.venue,
        "link": card.about.link,
        "model": card.model,
        "adapter": card.adapter,
        "settings": ", ".join(f"{k} {v:g}" if not isinstance(v, str) else f"{k} {v}" for k, v in card.settings.items()),
        "changes": changed,
        "under": ball_text(card.norm, card.eps),
        "date": card.date,
        "versions": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
        "measured by": "\n".join(card.commands),
        "flags": "\n".join(
            f"{each.dataset}: {name}: {text}" for each in card.results for name, text in each.flags.items()
        ),
    }
    return {key: "\n".join(map(plain, value.splitlines())) for key, value in told.items() if value}

"""Result cards: what is on them, what is refused, and the leaderboard's order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import METHODS, N, measure, setting

from radapt.errors import ResultsError, SettingsError
from radapt.reports import read_cards, write_leaderboard, write_report
from radapt.reports.leaderboard import boards_of
from radapt.results import CHECKS, Results, Run

Make = Callable[..., Results]
Changed = Callable[..., Path]


def cards(path: Path, folder: Path, **about: Any) -> dict[str, Any]:
    """The cards of a results file by candidate, read again."""
    write_report(path, folder / "report", formats=["csv"], cards=folder / "cards", about=about or None)
    return {card.name: card for card in read_cards(folder / "cards").values()}


def test_a_card_for_each_candidate_and_ball(results_file: Path, tmp_path: Path) -> None:
    found = cards(results_file, tmp_path)
    assert set(found) == set(METHODS)
    fare = found["FARE"]
    assert (fare.norm, fare.eps, fare.source, fare.model) == ("linf", 4 / 255, "self", "models/FARE")
    assert [each.dataset for each in fare.results] == ["shapes", "colours", "digits"]
    shapes = fare.results[0]
    clean, _, white_box = METHODS["FARE"]
    assert shapes.clean.percent == 100 * clean / N
    assert shapes.robust.percent == 100 * white_box / N
    assert shapes.robust.low < shapes.robust.percent < shapes.robust.high
    assert (shapes.robust.n, shapes.planned, shapes.metric) == (N, N, "top-1")
    assert [(each.attack, each.source) for each in shapes.attacks] == [("apgd", "self")]
    assert [(each.attack, each.source) for each in shapes.transfer] == [("apgd", "undefended")]
    assert fare.versions["radapt"] == "1.0"
    assert found["R-Adapt_CLIP"].results[2].flags == {"zero gradients": "31 % of the pixels"}


def test_what_was_never_attacked_white_box_has_no_robust_figure(results_file: Path, tmp_path: Path) -> None:
    adaptive = cards(results_file, tmp_path)["R-Adapt+ (adaptive)"].results[0]
    assert adaptive.robust is None
    assert adaptive.transfer[0].percent > 60
    assert adaptive.doubts == ["never attacked white-box"]


def test_the_robust_figure_is_lowered_to_the_worst_case_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Results(path) as store:
        measure(store, setting("masked"), 180)
        for attack, source, successes in (("apgd", "self", 150), ("square", "self", 90), ("apgd", "undefended", 60)):
            measure(store, setting("masked", source=source, attack=attack), successes)
        store.flag(setting("masked", source="self"), {"square beats gradients": "by far"}, checked=N)
        found = setting("masked", source="self", attack=CHECKS, options={"of": "apgd"})
        measure(store, found, 20)
    (result,) = cards(path, tmp_path)["masked"].results
    assert result.robust.percent == 10  # of what the sanity checks found
    assert {each.attack for each in result.attacks} == {"apgd", "square"}
    assert "square beats gradients" in result.flags
    assert "weaker than transfer" in result.flags
    assert not result.checked


def test_a_card_names_commands_and_versions_and_what_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Results(path) as store:
        for command in ("radapt evaluate a", "radapt evaluate a", ""):
            store.notes.add_run(
                Run(date="2031", command=command, machine="m", device="cpu", versions={"python": "3.x"})
            )
        for name, adapter in (("anchor", "f1"), ("deltas", "f2"), ("own", "f3")):
            measure(store, setting(name, adapter=adapter), 100)
            measure(store, setting(name, source="self", adapter=adapter), 50)
        store.notes.add_adapters({"f1": {"method": "training-free", "alpha": 0.4}, "f2": {"method": "graft"}})
    found = cards(path, tmp_path, own={"paper": "P", "link": "https://a.b/c", "changed": 0.38})
    assert found["own"].commands == ("radapt evaluate a",)
    assert found["own"].versions == {"python": "3.x", "radapt": "1.0"}
    assert found["anchor"].settings == {"method": "training-free", "alpha": 0.4}
    assert [found[name].about.changed for name in ("anchor", "deltas", "own")] == [0, None, 0.38]
    assert (found["own"].about.paper, found["anchor"].about.paper) == ("P", "")


def test_what_is_told_may_be_a_file(small: Path, tmp_path: Path) -> None:
    (tmp_path / "about.yaml").write_text("FARE: {authors: Someone et al., venue: ICML}\n")
    write_report(small, tmp_path, formats=["csv"], cards=tmp_path / "cards", about=tmp_path / "about.yaml")
    (found,) = (card.about for card in read_cards(tmp_path / "cards").values())
    assert (found.authors, found.venue, found.paper) == ("Someone et al.", "ICML", "")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"FARRE": {}}, "about: no candidate has the name 'FARRE'; did you mean 'FARE'"),
        ({"FARE": {"papr": "x"}}, "about: FARE: unknown key 'papr'; did you mean 'paper'"),
        ({"FARE": {"link": "javascript:alert(1)"}}, "link must begin with https://"),
        ({"FARE": {"changed": 38}}, "changed must be a number of at least 0, 1 at most, got 38"),
    ],
)
def test_what_is_told_wrongly_is_refused(small: Path, tmp_path: Path, about: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write_report(small, tmp_path / "out", formats=["csv"], cards=tmp_path / "cards", about=about)
    assert list(tmp_path.iterdir()) == []


def test_about_without_cards_would_have_no_effect(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="about is for result cards"):
        write_report(small, tmp_path, about={"FARE": {}})


def test_results_without_an_attack_have_no_cards(make: Make, tmp_path: Path) -> None:
    make((setting("CLIP"), 100)).close()
    with pytest.raises(ResultsError, match="nothing was attacked"):
        write_report(tmp_path / "made.sqlite", tmp_path / "out", formats=["csv"], cards=tmp_path / "cards")


def test_equal_names_of_different_models_have_files_of_their_own(make: Make, tmp_path: Path) -> None:
    models = [setting("CLIP", model=model, source=source) for model in ("a", "b") for source in ("", "self")]
    make(*((each, 100) for each in models)).close()
    write_report(tmp_path / "made.sqlite", tmp_path / "out", formats=["csv"], cards=tmp_path / "cards")
    first = sorted(tmp_path.glob("cards/*"))
    assert [path.name.rpartition("-")[0] for path in first] == ["clip-linf-4-255"] * 2
    write_report(tmp_path / "made.sqlite", tmp_path / "out", formats=["csv"], cards=tmp_path / "cards")
    assert sorted(tmp_path.glob("cards/*")) == first  # and a card's file is the same when it is made again


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file of one candidate; read only."""
    path = tmp_path_factory.mktemp("small") / "results.sqlite"
    with Results(path) as store:
        for dataset in ("shapes", "colours"):
            for source, successes in (("", 126), ("undefended", 104), ("self", 70)):
                measure(store, setting("FARE", dataset, source), successes)
    return path


@pytest.fixture
def changed(small: Path, tmp_path: Path) -> Changed:
    """A folder with FARE's card, at some place of which another value stands."""
    cards(small, tmp_path)
    (path,) = (tmp_path / "cards").glob("fare*")
    whole = json.loads(path.read_text())

    def change(*place: str | int, to: Any) -> Path:
        content = json.loads(json.dumps(whole))
        part = content
        for step in place[:-1]:
            part = part[step]
        if to is None:
            del part[place[-1]]
        else:
            part[place[-1]] = to
        (tmp_path / "others").mkdir(exist_ok=True)
        (tmp_path / "others/theirs.json").write_text(json.dumps(content))
        return tmp_path / "others"

    return change


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["robust"], 99, "unknown key 'robust'"),
        (["card"], 2, "card must be 1, the format that this version reads, got 2"),
        (["source"], "undefended", "unknown source 'undefended'"),
        (["name"], " ", "name must be a text of at most 300 characters"),
        (["name"], "x" * 301, "name must be a text of at most 300 characters"),
        (["eps"], -1, "eps must be a number above 0"),
        (["results"], [], "results must have one entry for each dataset"),
        (["about", "link"], "data:text/html,x", "about: link must begin with https://"),
        (["results", 1, "dataset"], "shapes", "none twice"),
        (["results", 1, "robust"], None, "results: 1: missing robust"),
        (["results", 1, "checked"], "yes", "results: 1: checked: input should be a valid boolean"),
        (["results", 1, "attacks"], [], "attacks must name the white-box attacks"),
        (["results", 1, "robust", "n"], 0, "results: 1: robust: n must be a whole number of at least 1, got 0"),
        (["results", 1, "robust", "percent"], 99, "percent must lie in its interval, got 99"),
        (["results", 1, "clean", "low"], float("nan"), "low: input should be a (finite|valid) number"),
        (["results", 1, "attacks", 0, "source"], "undefended", "that is transfer"),
        (["results", 1, "transfer", 0, "source"], "self", "that is white-box"),
        (["results", 1, "transfer", 0, "percent"], 1, "percent must lie in its interval"),
        (
            ["results", 1, "robust"],
            {"percent": 80, "low": 75, "high": 85, "n": N},
            "robust must be the worst case over all attacks, got 80, but 'apgd' from 'self' leaves 35 of the same",
        ),
    ],
)
def test_others_cards_are_checked_and_the_file_and_the_field_are_named(
    changed: Changed, place: list[str | int], value: Any, message: str
) -> None:
    folder = changed(*place, to=value)
    with pytest.raises(ResultsError, match=message) as caught:
        read_cards(folder)
    assert str(caught.value).startswith(str(folder / "theirs.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "3", '{"card": 1, "card": 1}', "[" * 100_000])
def test_files_that_are_no_cards_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ResultsError, match=r"x\.json"):
        write_leaderboard(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("given", ["folder", []])
def test_no_cards_at_all_are_refused(tmp_path: Path, given: Any) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResultsError, match="there is no result card in"):
        write_leaderboard(tmp_path / given if given else given, tmp_path / "page.html")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nowhere"):
        read_cards(tmp_path / "nowhere")


def test_the_order_is_white_box_and_what_may_be_trusted_first(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Results(path) as store:
        kept = {"third": (40, 90), "first": (60, 90), "equal": (60, 70)}
        kept |= {"masked": (99, 10), "flagged": (95, 95), "unchecked": (90, 90)}
        for name, (white_box, transfer) in {**kept, "transfer": (None, 100)}.items():
            own = [setting(name), setting(name, source="undefended")]
            own += [setting(name, source="self")] if white_box is not None else []
            for each, successes in zip(own, (150, transfer, white_box), strict=False):
                measure(store, each, successes)
                flags = {"large ball": "stands"} if name == "flagged" and each.source == "self" else {}
                store.flag(each, flags, checked=0 if name == "unchecked" else N)
    (board,) = boards_of(cards(path, tmp_path).values())
    assert (board.dataset, board.threat, board.what) == ("shapes", "l∞ 4/255", "zero-shot, top-1")
    ranked = [(entry.name, entry.rank) for entry in board.entries]
    assert ranked[:3] == [("equal", 1), ("first", 1), ("third", 3)]
    # What fools it counts, whoever made it: the worst case of "masked" is 10 of 200.
    assert ranked[3:] == [("flagged", None), ("unchecked", None), ("masked", None), ("transfer", None)]
    assert [entry.doubts for entry in board.entries[3:]] == [
        ("flag: large ball",),
        ("the sanity checks did not run",),
        ("flag: weaker than transfer",),
        ("never attacked white-box",),
    ]


def test_a_figure_under_fewer_attacks_than_others_has_no_rank(tmp_path: Path) -> None:
    attacks = {
        "fgsm": {"fgsm": 95},
        "apgd": {"apgd": 80},
        "both": {"apgd": 60, "fgsm": 95},
        "whole": {"autoattack": 50},
    }

    def board(*names: str) -> dict[str, tuple[int | None, tuple[str, ...]]]:
        path = tmp_path / f"{'-'.join(names)}.sqlite"
        with Results(path) as store:
            for name in names:
                own = [setting(name), *(setting(name, source="self", attack=attack) for attack in attacks[name])]
                for each, successes in zip(own, (150, *attacks[name].values()), strict=True):
                    measure(store, each, successes)
                    store.flag(each, {}, checked=N)
        (found,) = boards_of(cards(path, tmp_path / path.stem).values())
        return {entry.name: (entry.rank, entry.doubts) for entry in found.entries}

    assert board("fgsm", "apgd") == {"fgsm": (1, ()), "apgd": (2, ())}  # neither has more than the other
    assert board("fgsm", "both") == {"both": (1, ()), "fgsm": (None, ("attacked by fgsm alone; others by apgd, too",))}
    ranks = board("fgsm", "both", "whole")
    assert list(ranks) == ["whole", "fgsm", "both"]
    assert [rank for rank, _ in ranks.values()] == [1, None, None]
    assert ranks["both"][1] == ("attacked by apgd, fgsm alone; others by autoattack, too",)


def test_boards_are_by_dataset_and_radius(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Results(path) as store:
        for dataset in ("shapes", "digits"):
            measure(store, setting("CLIP", dataset), 150)
            for eps in (8 / 255, 2 / 255):
                measure(store, setting("CLIP", dataset, "self", eps=eps), 20)
    found = list(read_cards(write_report(path, tmp_path, formats=["csv"], cards=tmp_path / "cards")[1:]).values())
    assert len(found) == 2
    rounded = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("cards/*"))]
    assert {card["eps"] for card in rounded} == {8 / 255, 2 / 255}
    boards = [(board.dataset, board.threat) for board in boards_of(found)]
    assert boards == [(name, f"l∞ {k}/255") for name in ("shapes", "digits") for k in (2, 8)]


def test_autoattack_stands_beside_where_it_ran(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Results(path) as store:
        measure(store, setting("CLIP"), 150)
        how = {"version": "robustvlm", "steps": 100}
        measure(store, setting("CLIP", source="self", attack="autoattack", options=how), 40)
        measure(store, setting("CLIP", source="self", attack="low-frequency"), 30)
    card = cards(path, tmp_path)["CLIP"]
    assert card.results[0].autoattack.percent == 20
    assert card.results[0].robust.percent == 15
    ((entry,),) = (board.entries for board in boards_of([card]))
    assert (entry.version, entry.attacks) == ("robustvlm, 100 steps", "autoattack, low-frequency")

"""``radapt analyze``: every analysis from the command line, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from radapt.analysis import cka, names
from radapt.data import load_dataset
from radapt.models import load
from radapt.results.plots import Curves, Heatmap, Images, read_plots

Run = Callable[..., Result]
TWINS = ("micro/clip", "FARE=micro/fare")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("analysis", "options", "kind"),
    [
        ("cka", ("tokens=class",), Heatmap),
        ("kernels", ("scale=raw",), Heatmap),
        ("response", (), Curves),
        ("attention", ("query=class", "images=2"), Images),
        ("attention-sensitivity", (), Heatmap),
        ("perturbations", ("attack=pgd", "eps=8/255", "steps=1", "bands=4"), Curves),
    ],
)
def test_every_analysis_writes_its_plots_and_numbers(
    run: Run, analysis: str, options: tuple[str, ...], kind: type
) -> None:
    words = [word for each in options for word in ("--option", each)]
    result = run("analyze", analysis, *TWINS, "--n", 8, "--out", "here", "--quiet", *words)
    assert result.exit_code == 0, result.output
    plots = read_plots("here/plots.json")
    assert [type(plot) for plot in plots] == [kind]
    assert sorted(path.suffix for path in Path("here").iterdir()) == [".json", ".png", ".svg"]
    for path in Path("here").iterdir():
        assert f"wrote {Path('here') / path.name}" in result.output


def test_there_is_a_test_for_every_analysis() -> None:
    tested = {"cka", "kernels", "response", "attention", "attention-sensitivity", "perturbations", "replacement"}
    assert set(names()) == tested


@pytest.mark.slow
def test_the_first_model_is_the_reference(run: Run) -> None:
    assert run("analyze", "cka", *TWINS, "--n", 12, "--out", "here", "--quiet").exit_code == 0
    (plot,) = read_plots("here/plots.json")
    assert isinstance(plot, Heatmap)
    assert (plot.row_label, plot.column_label) == ("blocks of FARE", "blocks of micro/clip")
    pixels = load_dataset("objects", n=12).pixels(range(12))
    expected = cka(load("micro/clip"), load("micro/fare"), [pixels])
    for row, wanted in zip(plot.values, expected.values, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
def test_replacement_draws_all_twins_and_continues(run: Run) -> None:
    words = ("analyze", "replacement", *TWINS, "TeCoA=micro/tecoa", "--data", "shapes", "--n", 4, "--out", "here")
    words += ("--option", "order=single", "--option", "attack=pgd", "--option", "steps=1", "--quiet")
    result = run(*words)
    assert result.exit_code == 0, result.output
    (plot,) = read_plots("here/plots.json")
    assert isinstance(plot, Curves)
    assert plot.ticks == ("Original", "Emb.", "B1-Attn", *(f"B{n}" for n in range(1, 9)), "Head", "Full")
    kinds = {(line.name, line.kind) for line in plot.lines}
    assert kinds == {(name, kind) for name in ("FARE", "TeCoA") for kind in ("clean", "transfer", "white-box")}
    before = Path("here/plots.json").read_bytes()
    assert run(*words).exit_code == 0
    assert Path("here/plots.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("kca", *TWINS), "unknown analysis 'kca'; did you mean 'cka'?"),
        (("cka", *TWINS, "--option", "token=all"), "analysis 'cka' has no setting 'token'; did you mean 'tokens'?"),
        (("cka", *TWINS, "--option", "tokens=clas"), "'clas'"),
        (("cka", "micro/clip"), "cka compares models"),
        (("cka", "micro/clip", "micro/clip"), "different labels"),
        (("cka", *TWINS, "--data", "shapes,colours"), "unknown dataset 'shapes,colours'"),
        (
            ("replacement", *TWINS, "--option", "ordre=single"),
            "analysis 'replacement' has no setting 'ordre'; did you mean 'order'?",
        ),
        (("replacement", "micro/clip"), "replacement compares models"),
        (("replacement", *TWINS, "--option", "order=backwards"), "unknown order 'backwards'"),
    ],
)
def test_what_is_wrong_is_said(run: Run, words: tuple[str, ...], message: str) -> None:
    result = run("analyze", *words, "--n", 8, "--quiet")
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.mark.slow
def test_models_without_attention_maps_or_of_another_size_are_refused(run: Run, model: str) -> None:
    result = run("analyze", "attention", "micro/qwen-vl", "--n", 2, "--quiet")
    assert result.exit_code == 1
    assert "attention" in result.stderr
    result = run("analyze", "attention-sensitivity", "micro/clip", f"tiny={model}", "--n", 4, "--quiet")
    assert result.exit_code == 1  # another depth
    assert "tiny" in result.stderr

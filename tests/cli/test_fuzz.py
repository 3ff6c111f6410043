"""Whatever stands on the command line, a command that cannot run ends with one line that says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import yaml
from tests.cli.conftest import Run

NUL, ESCAPE, BYTE, LONG, MARK, TURN = "a\0b", "\x1b[31mred", "\udcff", "x" * 300, "[/]", "\u202egnp"
HUGE, DIGITS = "9" * 30, "9" * 5000

# What is typed, and what the message must name; MODEL stands for a model that is there, FILE and FOLDER for what they
# say, and CARD for a data set of one's own. These fail before anything is loaded.
QUICK: list[tuple[str, str]] = [
    ("nonsense", "nonsense"),
    ("micro nonsense", "nonsense"),
    (MARK, MARK),
    (ESCAPE, r"\x1b[31mred"),
    ("evaluate", "candidates"),
    ("adapt", "method"),
    ("report", "RESULTS"),
    ("attacks a b", "b"),
    ("attacks [bold]x", "[bold]x"),
    (f"attacks {ESCAPE}", r"\x1b[31mred"),
    (f"attacks {BYTE}", "udcff"),
    (f"attacks {NUL}", r"a\x00b"),
    (f"attacks {TURN}", r"\u202egnp"),
    (f"datasets {MARK}", MARK),
    (f"datasets {LONG}.yaml", "File name too long"),
    ("datasets FOLDER/x.yaml", "x.yaml"),
    (f"models {MARK}", MARK),
    (f"models {BYTE}", "udcff"),
    ("models --dtype float16", "--dtype"),
    ("report missing.sqlite", "missing.sqlite"),
    (f"report {MARK}", MARK),
    (f"report {NUL}", r"a\x00b"),
    (f"report {LONG}", LONG),
    ("report FOLDER", "FOLDER"),
    ("report FILE", "FILE"),
    ("report FILE --out FILE", "--out"),
    ("report FILE --json FOLDER", "--json"),
    ("report FILE --out a --out b", "--out"),
    ("report FILE --cards FILE", "--cards"),
    ("report FILE --about about.yaml", "--about would have no effect without --cards"),
    ("leaderboard", "CARDS"),
    ("leaderboard missing", "missing"),
    ("leaderboard FOLDER", "no result card in FOLDER"),
    ("leaderboard FILE", "FILE"),
    (f"leaderboard {MARK}", MARK),
    ("leaderboard FOLDER --out FOLDER", "--out"),
    ("reproduce nonsense", "nonsense"),
    ("reproduce --profile paper", "--profile"),
    ("reproduce --n 4", "--n"),
    (f"reproduce {MARK}.yaml", f"{MARK}.yaml"),
    ("reproduce missing.yaml", "missing.yaml"),
    ("reproduce tab2 --profile [red]", "[red]"),
    ("reproduce tab2 --n 0", "got 0"),
    ("reproduce tab2 --n -5", "got -5"),
    ("reproduce tab2 --n 1e20", "1e20"),
    (f"reproduce tab2 --seed {HUGE}", "seed"),
    (f"reproduce tab2 --batch-size {HUGE}", "batch_size"),
    ("reproduce tab2 --batch-size 0", "batch_size"),
    ("reproduce tab2 --json FOLDER", "--json"),
    ("reproduce tab2 --out FILE", "--out"),
    ("demo --out FILE", "--out"),
    ("demo --json FOLDER", "--json"),
    (f"demo --out {LONG}", "--out"),
    ("demo --n many", "many"),
    (f"demo --n {DIGITS}", "--n"),
    ("demo extra", "extra"),
    ("evaluate MODEL --n 1e20", "1e20"),
    ("evaluate MODEL --n 2 --n 3", "--n"),
    ("evaluate MODEL --seed 1e23", "1e23"),
    ("evaluate MODEL --nonsense", "--nonsense"),
    (f"evaluate MODEL --results {NUL}", "--results"),
    (f"evaluate MODEL --json {NUL}", "--json"),
    (f"evaluate MODEL --json {LONG}", "--json"),
    ("evaluate MODEL --json FOLDER", "--json"),
    ("evaluate MODEL --json FILE/rows.json", "--json"),
    ("evaluate MODEL --results FOLDER", "--results"),
    ("evaluate MODEL --attack none --eps 8/255", "--eps"),
    ("evaluate MODEL --attack none --option steps=3", "--option"),
    ("evaluate MODEL --attack none --source self --norm l2", "--norm, --source"),
    ("evaluate MODEL --attack none --transferred kept", "--transferred"),
    ("evaluate MODEL --source self --transferred kept", "--transferred"),
    ("evaluate MODEL --transferred FILE", "--transferred"),
    ("evaluate MODEL --target x --task vqa", "--task"),
    ("evaluate MODEL --option steps=3 --option steps=4", "steps"),
    ("evaluate MODEL --option =3", "'=3'"),
    ("adapt training-free --option alpha=2", "--alpha"),
    ("adapt training-free --option model=x", "--model"),
    ("adapt training-free --option data=x", "--data"),
    ("adapt data-driven --option loss=text", "--loss"),
    ("adapt data-driven --option checkpoint=x", "checkpoint"),
    ("adapt training-free --out FILE", "--out"),
    ("adapt training-free --json FOLDER", "--json"),
    ("adapt training-free --alpha x", "--alpha"),
    (f"adapt training-free --model {NUL}", "--model"),
    ("tune adapter --n x", "--n"),
    ("tune adapter --out FILE", "--out"),
    ("finetune fare --steps 1e3", "1e3"),
    ("finetune fare --log FILE", "--log"),
    ("finetune fare --out FILE", "--out"),
    ("analyze cka MODEL --out FILE", "--out"),
    ("analyze cka MODEL --n x", "--n"),
    ("micro train clip --out FILE", "--out"),
    ("micro train clip --lr x", "--lr"),
    ("micro train [/]", MARK),
    ("micro train clip --start micro/clip", "start"),
]  # fmt: skip
EMPTY = [
    ["attacks", ""],
    ["datasets", ""],
    ["models", ""],
    ["report", ""],
    ["reproduce", ""],
    ["report", "FILE", "--out", ""],
    ["report", "FILE", "--json", ""],
    ["reproduce", "tab2", "--out", ""],
    ["demo", "--out", ""],
    ["demo", "--json", " "],
    ["evaluate", ""],
    ["evaluate", "MODEL", "--json", ""],
    ["evaluate", "MODEL", "--results", ""],
    ["evaluate", "MODEL", "--undefended", ""],
    ["evaluate", "MODEL", "--n", ""],
    ["adapt", "training-free", "--model", ""],
    ["adapt", "training-free", "--out", ""],
    ["adapt", "model-guided", "--guide", ""],
    ["tune", ""],
    ["tune", "adapter", "--model", ""],
    ["finetune", "fare", "--model", ""],
    ["finetune", "fare", "--log", ""],
    ["analyze", "cka", ""],
    ["micro", "train", "llava", "--start", ""],
]

# These load a model, or nearly.
SLOW: list[tuple[str, str]] = [
    (f"evaluate {MARK}", MARK),
    (f"evaluate {ESCAPE}", r"\x1b[31mred"),
    (f"evaluate {BYTE}", "udcff"),
    (f"evaluate {LONG}", LONG),
    ("evaluate runs/alpha=0.4", "'runs/alpha=0.4'"),
    ("evaluate MODEL+runs/alpha=0.4", "runs/alpha=0.4"),
    ("evaluate A=MODEL+[/]", MARK),
    ("evaluate MODEL+FILE", "FILE"),
    ("evaluate a=b=c+d", "'b=c'"),
    ("evaluate MODEL --n 2 --data [red]", "[red]"),
    ("evaluate MODEL --n 2 --data shapes,,[/]", MARK),
    ("evaluate MODEL --n 2 --data FILE.yaml", "FILE.yaml"),
    (f"evaluate MODEL --n {HUGE}", "n must be"),
    ("evaluate MODEL --n -5", "got -5"),
    ("evaluate MODEL --n 2 --batch-size -1", "batch_size"),
    (f"evaluate MODEL --n 2 --batch-size {HUGE}", "batch_size"),
    (f"evaluate MODEL --n 2 --seed {HUGE}", "seed"),
    ("evaluate MODEL --n 2 --seed -1", "seed"),
    ("evaluate MODEL --n 2 --split [/]", MARK),
    ("evaluate MODEL --n 2 --norm [/]", MARK),
    ("evaluate MODEL --n 2 --dtype [/]", MARK),
    ("evaluate MODEL --n 2 --device [/]", MARK),
    ("evaluate MODEL --n 2 --device-map [/]", "device_map"),
    ("evaluate MODEL --n 2 --task [/]", MARK),
    ("evaluate MODEL --n 2 --source [/]", MARK),
    ("evaluate MODEL --n 2 --attack [/]", MARK),
    ("evaluate MODEL --n 2 --undefended [/]", MARK),
    ("evaluate MODEL --n 2 --eps inf", "got inf"),
    ("evaluate MODEL --n 2 --eps 1e30", "1e+30"),
    ("evaluate MODEL --n 2 --eps 1e400", "got inf"),
    ("evaluate MODEL --n 2 --eps 4", "4/255"),
    ("evaluate MODEL --n 2 --norm l2 --eps 1e30", "1e+30"),
    ("evaluate MODEL --n 2 --eps [/]", MARK),
    ("evaluate MODEL --n 2 --option eps=2/255", "eps"),
    ("evaluate MODEL --n 2 --option norm=l2", "norm"),
    ("evaluate MODEL --n 2 --option name=x", "name"),
    ("evaluate MODEL --n 2 --option [/]=x", MARK),
    ("evaluate MODEL --n 2 --option steps=1e30", "steps"),
    (f"evaluate MODEL --n 2 --option steps={HUGE}", "steps"),
    ("evaluate MODEL --n 2 --option steps=maybe", "maybe"),
    ("evaluate MODEL --n 2 --option steps=true", "steps"),
    ("evaluate MODEL --n 2 --attack pgd --option random_start=maybe", "random_start"),
    ("evaluate MODEL --n 2 --attack pgd --option random_start=1", "random_start"),
    ("evaluate MODEL --n 2 --attack pgd --option step_size=maybe", "step_size"),
    ("evaluate MODEL --n 2 --attack pgd --option step_size=nan", "step_size"),
    ("evaluate MODEL --n 2 --attack fab --option nearest=maybe", "nearest"),
    ("evaluate MODEL --n 2 --option loss=3", "loss"),
    ("evaluate MODEL --n 2 --target word", "shapes"),
    ("evaluate MODEL --n 2 --attack none -q --json /dev/full", "No space left"),
    ("adapt [/]", MARK),
    ("adapt training-free --model MODEL --guide MODEL", "guide"),
    ("adapt training-free --model MODEL --data objects", "without images"),
    ("adapt training-free --model MODEL --n 4", "without images"),
    ("adapt training-free --model MODEL --steps 4", "steps"),
    ("adapt training-free --model MODEL --eps 4/255", "eps"),
    ("adapt model-guided --model MODEL", "guide"),
    ("adapt model-guided --model MODEL --guide [/]", MARK),
    ("adapt training-free --model [/]", MARK),
    ("adapt training-free --model MODEL --alpha nan", "alpha"),
    ("adapt training-free --model MODEL --alpha inf", "alpha"),
    ("adapt training-free --model MODEL --alpha 1e30", "alpha"),
    ("adapt training-free --model MODEL --d0 inf", "must be"),
    ("adapt training-free --model MODEL --d0 nan", "must be"),
    (f"adapt training-free --model MODEL --block {HUGE}", "block"),
    ("adapt training-free --model MODEL --block -1", "block"),
    ("adapt training-free --model MODEL --mix [/]", MARK),
    ("adapt training-free --model MODEL --image [/]", MARK),
    ("adapt training-free --model MODEL --option pixels=3", "pixels"),
    ("adapt training-free --model MODEL --option quietly=1", "quietly"),
    ("adapt data-driven --model MODEL --option classifier=3", "classifier"),
    ("adapt data-driven --model MODEL --option lr=fast", "lr"),
    (f"adapt data-driven --model MODEL --n 4 --steps {HUGE}", "steps"),
    (f"adapt data-driven --model MODEL --n 4 --seed {HUGE}", "seed"),
    ("adapt data-driven --model MODEL --n 4 --seed -1", "seed"),
    ("adapt data-driven --model MODEL --n 4 --eps nan", "eps"),
    (f"adapt data-driven --model MODEL --n {HUGE}", "n must be"),
    ("tune [/]", MARK),
    ("tune FOLDER --model MODEL", "FOLDER"),
    ("finetune [/]", MARK),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --layers block:0-999999999", "block:0-999999999"),
    (f"finetune fare --model MODEL --n 4 --batch-size 2 --layers lora:r{HUGE}@0", "lora"),
    (f"finetune fare --model MODEL --n 4 --batch-size 2 --layers block:{DIGITS}", "block"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --layers [/]", MARK),
    ("finetune fare --model MODEL --n 4 --batch-size 5", "batch_size"),
    (f"finetune fare --model MODEL --n 4 --batch-size 2 --steps {HUGE}", "steps"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --lr nan", "lr"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --lr inf", "lr"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --weight-decay nan", "weight_decay"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --ema 1", "ema"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --seed -1", "seed"),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --optimizer [/]", MARK),
    ("finetune fare --model MODEL --n 4 --batch-size 2 --precision [/]", MARK),
    ("analyze [/] MODEL", MARK),
    ("analyze cka MODEL MODEL", "MODEL"),
    ("analyze cka [/] MODEL", MARK),
    ("analyze cka MODEL+x MODEL", "adapter"),
    ("analyze attention MODEL --n 4 --option block=0.5", "block"),
    ("analyze attention MODEL --n 4 --option name=x", "'name'"),
    ("analyze perturbations MODEL --n 4 --option bands=maybe", "bands"),
    ("analyze response MODEL --data [/]", MARK),
    ("analyze response MODEL --split [/]", MARK),
    (f"models MODEL --image-size {HUGE}", "pixels at most"),
    (f"models MODEL --batch-size {HUGE}", "batch_size"),
    ("models MODEL --image-size -3", "-3"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_checks() -> Iterator[None]:
    """The tests' own run-time checks of signatures would refuse values of a wrong type first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(run: Run, model: str, words: list[str], part: str) -> None:
    Path("FILE").write_text("x" * 2000)
    Path("FILE.yaml").write_text("[")
    Path("FOLDER").mkdir()
    result = run(*(word.replace("MODEL", model) for word in words))
    lines = result.stderr.splitlines()
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "fault of radapt" not in lines[0]
    assert lines[0].isprintable()
    assert len(lines[0]) < 2500
    assert part.replace("MODEL", model).lower() in lines[0].lower()  # older versions of typer write arguments large


@pytest.mark.parametrize(("line", "part"), QUICK, ids=lambda value: ascii(value)[1:60])
def test_what_cannot_run_says_why_at_once(run: Run, model: str, line: str, part: str) -> None:
    refused(run, model, line.split(" "), part)


@pytest.mark.parametrize("words", EMPTY, ids=" ".join)
def test_an_empty_name_or_path_is_refused(run: Run, model: str, words: list[str]) -> None:
    Path("adapter").mkdir()
    refused(run, model, words, "got '" if words != ["evaluate", "MODEL", "--n", ""] else "--n")


@pytest.mark.slow
@pytest.mark.parametrize(("line", "part"), SLOW, ids=lambda value: ascii(value)[1:60])
def test_what_cannot_run_says_why(run: Run, model: str, line: str, part: str) -> None:
    refused(run, model, line.split(" "), part)


MICRO = {
    "models": {"CLIP": "MODEL"},
    "data": ["shapes"],
    "n": 2,
    "attacks": [{"attack": "pgd", "eps": "4/255", "options": {"steps": 1}}],
    "sanity": False,
}
WHOLE = {"title": "t", "description": "d", "published": "p", "profiles": {"micro": MICRO}}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sanity": "maybe"}, "sanity"),
        ({"sanity": 1}, "sanity"),
        ({"n": True}, "n"),
        ({"n": 2.5}, "n"),
        ({"n": 0}, "n"),
        ({"n": "two"}, "n"),
        ({"dtype": 3}, "dtype"),
        ({"models": ["MODEL"]}, "models"),
        ({"models": {"A": 3}}, "models"),
        ({"data": {"a": 1}}, "data"),
        ({"data": ["[/]"]}, MARK),
        ({"data": ["nonsense"]}, "nonsense"),
        ({"nonsense": 1}, "nonsense"),
        ({"attacks": [{"attack": "pgd", "eps": 3, "nonsense": 1}]}, "nonsense"),
        ({"attacks": [{"attack": "[/]", "eps": "4/255"}]}, MARK),
        ({"attacks": [{"attack": "pgd", "eps": "many"}]}, "many"),
        ({"attacks": [{"attack": "pgd", "eps": [[1]]}]}, "eps"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "options": {"stepz": 1}}]}, "stepz"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "options": {"random_start": "maybe"}}]}, "random_start"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "options": {"eps": 0.1}}]}, "eps"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "options": [1]}]}, "options"),
        ({"attacks": [{"attack": "pgd", "eps": "4/255", "norm": "[/]"}]}, MARK),
        ({"defences": {"D": {"method": "[/]"}}}, MARK),
        ({"defences": {"D": {"method": "training-free", "guide": "MODEL"}}}, "guide"),
        ({"defences": {"D": {"method": "training-free", "stepz": 3}}}, "stepz"),
        ({"defences": {"D": {"method": "training-free", "pixels": 3}}}, "pixels"),
        ({"defences": {"D": {"method": "training-free", "alpha": "many"}}}, "many"),
        ({"defences": {"D": {"method": "data-driven", "data": "objects", "checkpoint": "x"}}}, "checkpoint"),
        ({"defences": {"D": 3}}, "D"),
        ({"trained": {"T": {"method": "fare", "data": "objects", "out": "x"}}}, "out"),
        ({"trained": {"T": {"method": "fare", "data": "objects", "steps": "many"}}}, "steps"),
        ({"analyses": [{"analysis": "cka", "options": {"tokenz": "all"}}]}, "tokenz"),
        ({"analyses": [{"analysis": "attention", "options": {"block": "first"}}]}, "block"),
        ({"analyses": [{"analysis": "cka", "data": "[/]"}]}, MARK),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_experiment_is_refused_before_anything_is_made(
    run: Run, model: str, changes: dict[str, object], part: str
) -> None:
    whole = {**WHOLE, "profiles": {"micro": {**MICRO, **changes}}}
    Path("own.yaml").write_text(yaml.safe_dump(whole).replace("MODEL", model))
    refused(run, model, ["reproduce", "own.yaml", "-q"], part)
    assert not Path("runs").exists()


def test_a_bomb_is_refused_and_not_printed(run: Run, model: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    Path("bomb.yaml").write_text("\n".join(lines))
    Path("deep.yaml").write_text("[" * 5000)
    Path("large.yaml").write_text("a: " + "x" * (8 << 20))
    Path("bytes.yaml").write_bytes(b"title: \xff\xfe")
    os.mkfifo("pipe.yaml")
    for number, name in enumerate(("bomb.yaml", "deep.yaml", "large.yaml", "bytes.yaml", "pipe.yaml")):
        if number:
            Path("FOLDER").rmdir()
        refused(run, model, ["reproduce", name], name)

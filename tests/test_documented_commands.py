"""Every command line of the documentation: that it is one, and, made small, that it runs.

Commands that need a model, a dataset or an account elsewhere, a GPU, or hours, are parsed, and the names in them looked
up.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from radapt.adapters import micro_adapters
from radapt.attacks import names as attacks
from radapt.cli.main import app
from radapt.data import datasets
from radapt.experiments import experiments
from radapt.models import micro_models

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "src/radapt/micro").glob("*/*/README.md")),
]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ELSEWHERE = re.compile(
    r"openai/|llava-hf/|Qwen/|hf-hub:|MODEL|\.\.\.|my/|/data|\.yaml|cuda|balanced|cifar|caltech|coco|pope|autoattack|photos|wandb"
)
RUN = ("adapt", "check", "tune", "evaluate", "report", "analyze", "finetune", "leaderboard", "models")
ADDED = {
    "check": {"--n": ["4"], "--attack": ["square"], "--option": ["steps=2"]},
    "evaluate": {"--n": ["4"], "--no-sanity": []},
    "finetune": {"--n": ["8"], "--batch-size": ["4"]},
    "tune": {"--n": ["4"]},
}
SMALL = {"n": "4", "steps": "1", "trials": "2", "attack-steps": "1", "batch-size": "4"}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every ``radapt`` command of a page, without what the shell does before and after it."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
                words = words[1:]
            if "radapt" in words[:1] or (words[:2] == ["accelerate", "launch"] and "radapt" in words):
                yield words[words.index("radapt") + 1 :]


ALL = [
    (page.relative_to(ROOT).as_posix(), words)
    for page in PAGES
    for words in commands(page)
    if "..." not in words  # the reader fills it in
]


def after(words: list[str], option: str) -> list[str]:
    """The names that follow an option, separated by commas."""
    return words[words.index(option) + 1].split(",") if option in words else []


def test_commands_are_found() -> None:
    assert len(ALL) > 80
    assert {words[0] for _, words in ALL} >= {"adapt", "analyze", "demo", "evaluate", "finetune", "reproduce", "search"}


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page} {' '.join(words)}"[:150] for page, words in ALL])
def test_a_command_of_the_documentation_is_one(page: str, words: list[str]) -> None:
    group = get_command(app)
    command = group.get_command(None, words[0])  # type: ignore[attr-defined]
    assert command is not None, words
    rest = words[1:]
    if words[0] == "micro":
        command, rest = command.get_command(None, words[1]), words[2:]
    assert command is not None, words
    with command.make_context(words[0], rest) as context:
        assert context.params
    for attack in after(words, "--attack"):
        assert attack in (*attacks(), "none"), words
    for name in after(words, "--data"):
        assert name in datasets() or ELSEWHERE.search(name), words
    if words[0] == "reproduce" and len(words) > 1:
        assert words[1] in (*experiments(), "all"), words
    for name in re.findall(r"micro/[\w-]+", " ".join(words)):
        assert name in micro_models() or (ROOT / "src/radapt/micro/adapters" / name.removeprefix("micro/")).is_dir(), (
            words
        )


def small(words: list[str]) -> list[str]:
    """A command that takes seconds, of the same options."""
    made = []
    for at, word in enumerate(words):
        before = words[at - 1] if at else ""
        if before.removeprefix("--") in SMALL and before.startswith("--"):
            word = ",".join(SMALL[before.removeprefix("--")] for _ in word.split(","))
        made.append(re.sub(r"^((?:\w+\.)?steps)=\d+$", r"\1=1", word))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _ in ALL}))
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = [words for where, words in ALL if where == page]
    for words in own:
        if words[0] not in RUN or ELSEWHERE.search(" ".join(words)):
            continue
        adapters = [word.rpartition("+")[2] for word in words if re.search(r"micro/[\w-]+\+", word)]
        if not all(name in micro_adapters() or Path(name).exists() for name in adapters):
            continue  # its making takes hours, or data from elsewhere
        asked = small(words)
        for option, value in ADDED.get(words[0], {}).items():
            asked += [] if option in words or "--dry-run" in words else [option, *value]
        if words[:2] in (["adapt", "data-driven"], ["adapt", "shallow"]):
            asked += [] if "--n" in words else ["--n", SMALL["n"]]
        if words[0] == "evaluate" and "none" not in words and not any("steps=" in word for word in words):
            asked += ["--option", "steps=1"]
        done = CliRunner().invoke(app, asked)
        failed = "--fail-under" in words and "fails the check" in done.output  # as it may, on four images
        assert done.exit_code == 0 or failed, (asked, done.output)

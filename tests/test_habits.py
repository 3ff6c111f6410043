"""The files around the code can be read, agree with each other, and name commands that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import radapt

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github/workflows/ci.yml"
YAML = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def targets(commands: str) -> list[str]:
    """Targets of the make commands in a shell script, without its comments."""
    return re.findall(r"\bmake ([a-z][a-z-]*)", re.sub(r"(?m)(^|\s)#.*$", "", commands))


def code(path: Path) -> str:
    """What stands as code in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`(make [^`\n]+)`", text))


def steps() -> list[dict[str, Any]]:
    return [step for job in read(WORKFLOW)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_files_can_be_read(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_every_target_is_listed_by_help_and_is_no_file() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS
    assert set(re.findall(r"^([a-z-]+):.* ## \S", MAKEFILE, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", ".github/pull_request_template.md"])
def test_documents_name_targets_that_exist(name: str) -> None:
    assert targets(code(ROOT / name))
    assert set(targets(code(ROOT / name))) <= TARGETS


def test_the_workflow_runs_what_every_change_must_pass_and_the_lowest_versions() -> None:
    local = targets((ROOT / ".ci/run").read_text(encoding="utf-8"))
    hosted = targets("\n".join(step["run"] for step in steps() if "run" in step))
    check = re.search(r"^check: (.*?) ##", MAKEFILE, re.MULTILINE)
    assert check is not None
    assert set(local) == {*check[1].split(), "browser"}
    assert set(hosted) == {*local, "lowest"} <= TARGETS


def test_the_workflow_runs_every_version_of_python_that_is_declared() -> None:
    declared = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)}
    assert set(read(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]["python"]) == declared
    assert f">={min(declared, key=lambda each: int(each[2:]))}" == PROJECT["requires-python"]


def test_the_lowest_torch_of_the_workflow_is_that_of_the_project() -> None:
    bound = next(each for each in PROJECT["dependencies"] if each.startswith("torch>="))
    assert read(WORKFLOW)["jobs"]["lowest"]["env"]["TORCH"] == bound.replace(">=", "==") + ".0"


def test_actions_are_of_github_and_of_a_version() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", each) for each in used)


def test_forms_for_issues_have_what_github_asks_for() -> None:
    forms = [path for path in YAML if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml"]
    assert forms
    for form in map(read, forms):
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) > 0
        assert all(field["type"] in {"textarea", "input", "checkboxes", "dropdown"} for field in fields)
        assert all(field["attributes"]["label"] for field in fields)


def test_the_hooks_run_the_tools_of_the_virtual_environment() -> None:
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_the_citation_has_the_version() -> None:
    assert read(ROOT / "CITATION.cff")["version"] == radapt.__version__


def test_the_containers_and_the_makefile_install_one_torch() -> None:
    makefile = re.search(r"^TORCH \?= torch==(.+)$", MAKEFILE, re.MULTILINE)
    assert makefile is not None
    assert re.findall(r"^ARG TORCH=(.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE) == [
        makefile[1]
    ]
    assert f'"torch=={makefile[1]}"' in (ROOT / "examples/space/Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Dockerfile", "examples/space/Dockerfile"])
def test_a_container_is_built_from_what_the_context_holds(name: str) -> None:
    """``.dockerignore`` leaves everything out but what it names after an exclamation mark."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert copied <= {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)


def test_the_container_has_extras_that_there_are() -> None:
    extras = re.search(r"^ARG EXTRAS=(.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])

"""Whatever a file from outside holds: it is accepted and works, or one error of this library says why not."""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.faults.spoiled import Executed, cases, mark_of
from tests.tiny import tiny_clip

import radapt
from radapt.adapters import training_free
from radapt.errors import ModelError, RadaptError, SettingsError

CASES = int(os.environ.get("RADAPT_FUZZ_CASES", "170"))
"""Of each kind of file in the slow test; those of a larger number begin with those of a smaller one."""
SEED = int(os.environ.get("RADAPT_FUZZ_SEED", "0"))
QUICK = 8
SECONDS = 60


class HangError(BaseException):
    """No error of the library, and none that it catches."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an adapter as they are written."""
    folder = tmp_path_factory.mktemp("originals")
    model = tiny_clip()
    model.save_pretrained(folder / "model")
    training_free(model).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Iterator[None]:
    """Programs cannot be run, and what does not end is ended."""

    def started(*_: object, **__: object) -> None:
        raise HangError("a program is run")

    def late(*_: object) -> None:
        raise HangError(f"more than {SECONDS} seconds")

    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr("os.system", started)
    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def tried(kind: str, originals: Path, place: Path, count: int) -> Counter[str]:
    """Read so many spoiled files, and count what came of them; all that is no error of this library is told."""
    outcomes, wrong = Counter[str](), list[str]()
    case = cases(originals)[kind]
    for number in range(count):
        folder = place / "case"
        use = case(folder, random.Random(f"{SEED} {kind} {number}"))
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
            outcomes["accepted"] += 1
        except RadaptError as error:
            outcomes["refused"] += 1
            if not str(error).strip() or len(str(error)) > 3000:
                wrong.append(f"{number}: a message of {len(str(error))} characters: {str(error)[:200]}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"{number}: {type(error).__name__} at {last.filename}:{last.lineno}: {str(error)[:200]}")
        finally:
            signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
        if mark_of(folder).exists():
            mark_of(folder).unlink()
            wrong.append(f"{number}: something was executed")
    print(kind, dict(outcomes), len(wrong))
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    assert outcomes.total() == count
    return outcomes


KINDS = ["adapter", "card", "experiment", "search", "image", "model"]


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_spoiled_files(kind: str, originals: Path, tmp_path: Path) -> None:
    assert set(cases(originals)) == set(KINDS)
    assert tried(kind, originals, tmp_path, QUICK)["refused"]


@pytest.mark.slow
@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("kind", KINDS)
def test_many_spoiled_files(kind: str, originals: Path, tmp_path: Path) -> None:
    outcomes = tried(kind, originals, tmp_path, CASES)
    assert outcomes["refused"] > CASES // 4


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_are_accepted_as_they_are(
    kind: str, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "tests.faults.spoiled"
    for name in ("spoiled_tensors", "spoiled_bytes"):
        monkeypatch.setattr(f"{module}.{name}", lambda content, numbers: content)
    for name in ("spoiled_json", "_missing", "_with_code"):
        monkeypatch.setattr(f"{module}.{name}", lambda *given: None)
    monkeypatch.setattr(f"{module}.spoiled_yaml", lambda value, file, numbers: file.write_text(yaml.safe_dump(value)))
    if kind == "search":  # up to the model, which is not there
        with pytest.raises(RadaptError, match="unknown model"):
            cases(originals)[kind](tmp_path / "case", random.Random(0))()
    else:
        assert tried(kind, originals, tmp_path, 3)["accepted"] == 3


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", "merges.txt"])
def test_a_file_of_a_model_that_is_far_too_large_is_not_read(name: str, originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals / "model", tmp_path / "model")
    with (tmp_path / "model" / name).open("wb") as stream:
        stream.truncate(300 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=rf"the file {name} of .* has 314572800 bytes, more than the .* allowed"):
        radapt.load(tmp_path / "model")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_mark_is_left_where_something_is_executed(tmp_path: Path) -> None:
    """The test itself would notice."""
    pickle.loads(pickle.dumps(Executed(str(tmp_path / "mark")))).close()  # noqa: S301
    assert (tmp_path / "mark").exists()
    assert issubclass(SettingsError, RadaptError)

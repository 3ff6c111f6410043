"""Workers of Ray as this process sees them: whatever becomes of them, what is measured is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.tiny import own_labels, tiny_clip

from radapt.errors import CheckError, InputError
from radapt.evaluation import Candidate
from radapt.evaluation._ledger import Ledger
from radapt.evaluation._plan import Request
from radapt.evaluation._ray import RETRIES, Crew
from radapt.evaluation._worker import Worker
from radapt.results import Results


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ActorDiedError(RayError):
    pass


class Ray:
    """As much of the package as is used, in this process: what is asked of a worker is done when it is waited for."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, ActorDiedError=ActorDiedError)

    def wait(self, references: Sequence[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [references[0]], list(references[1:])

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()


def handle(worker: Worker, failing: BaseException) -> Any:
    """A worker that cannot make checks."""

    def remote(request: Any, what: str, *given: Any) -> Callable[[], Any]:
        def done() -> Any:
            if what == "check":
                raise failing
            return worker.do(request, what, *given)

        return done

    return SimpleNamespace(do=SimpleNamespace(remote=remote))


@pytest.mark.parametrize(
    ("failing", "raised"),
    [
        (RayTaskError(ValueError("a fault")), RayTaskError),
        (RayTaskError(InputError("refused")), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ActorDiedError("killed"), CheckError),
        (RayError("out of memory"), CheckError),
    ],
)
@pytest.mark.parametrize("workers", [1, RETRIES + 2])
def test_what_is_measured_is_stored_though_its_checks_fail(
    failing: BaseException, raised: type[BaseException], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the worker goes
    model = tiny_clip()
    taken: dict[str, Any] = {entry.name: None for entry in fields(Request)}
    taken |= {"candidates": Candidate(method="tiny", model=model), "data": own_labels(model, 6), "balanced": False}
    taken |= {"seed": 0, "quiet": True, "loading": {}, "batch_size": 4, "chunk_size": 4, "split": "test"}
    request, worker = Request(**taken), Worker(1, str(tmp_path))
    crew = Crew(Ray(), lambda: request, [handle(worker, failing) for _ in range(workers)])
    with Results(tmp_path / "r.sqlite") as results:
        units = crew.units()
        ledger = Ledger(results, units, (0, 1), sanity=True)
        with pytest.raises(raised):
            crew.run(units, ledger, lambda unit, count, seconds: None)
        (clean,) = results.all()
    assert (clean.n, clean.checked) == (6, False)

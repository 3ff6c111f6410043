"""The executor ray, on a real Ray of two workers: the same rows as in one process, and nothing lost when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip

import radapt
from radapt.errors import CheckError, ExecutorError, SettingsError
from radapt.evaluation import Candidate, _executor, evaluate, one_cluster
from radapt.evaluation._ledger import Ledger
from radapt.evaluation._plan import Request
from radapt.evaluation._worker import Worker
from radapt.results import Results

pytestmark = pytest.mark.slow
CANDIDATES = ["CLIP=micro/clip", "FARE=micro/fare", "R-Adapt+=micro/clip+micro/r-adapt-plus-static"]
PLAN: dict[str, Any] = {
    "data": "shapes",
    "attack": ["pgd", "square"],
    "options": {"steps": 4},
    "undefended": "micro/clip",
    "n": 12,
    "chunk_size": 4,
    "quiet": True,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As each worker with one CPU has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(path: Path) -> dict[str, object]:
    """All that a results file says, but for times and the order in which it was written."""
    with Results(path, read_only=True) as results:
        return {
            each.setting.key: (
                each.flags,
                sorted(results.samples(each.setting), key=lambda sample: sample.position),
                sorted(results.examples(each.setting), key=lambda example: example.position),
            )
            for each in results.all(checks=True)
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The rows of one undisturbed process."""
    path = tmp_path_factory.mktemp("whole") / "r.sqlite"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    evaluate(CANDIDATES, results=path, **PLAN)
    torch.set_num_threads(threads)
    return rows(path)


def workers() -> list[int]:
    """Process numbers of the workers that have begun below this process."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in found.stdout.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}

    def below(number: int) -> bool:
        return number == os.getpid() or (number in parents and below(parents[number]))

    return [int(row[0]) for row in rows if row[2].startswith("ray::Worker") and below(int(row[0]))]


def test_workers_make_the_same_rows_as_one_process_though_one_of_them_is_killed(
    whole: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, killed = Ledger.store, list[int]()

    def kills(self: Ledger, *given: Any) -> None:
        store(self, *given)
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Ledger, "store", kills)
    found = evaluate(CANDIDATES, results=tmp_path / "r.sqlite", executor="ray", workers=2, **PLAN)
    assert killed
    assert rows(tmp_path / "r.sqlite") == whole
    assert not workers()
    again = evaluate(CANDIDATES, results=tmp_path / "r.sqlite", **PLAN)  # nothing is left to measure
    assert again == found


def test_a_run_whose_driver_is_killed_continues_and_loses_only_what_was_under_way(
    whole: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "r.sqlite"
    command = [sys.executable, "-m", "radapt", "evaluate", *CANDIDATES, "--data", "shapes", "--n", "12"]
    command += ["--attack", "pgd,square", "--option", "steps=4", "--undefended", "micro/clip", "--chunk-size", "4"]
    command += ["--results", str(path), "--quiet", "--executor", "ray", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as driver:
        deadline = time.monotonic() + 240
        while measured(path) < 20:
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        driver.kill()
    before = measured(path)
    assert 20 <= before < 108
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert rows(path) == whole


def measured(path: Path) -> int:
    """How many samples a results file holds by now."""
    with suppress(radapt.RadaptError), Results(path, read_only=True) as results:
        return sum(len(results.samples(each.setting)) for each in results.all(checks=True))
    return 0


def test_objects_are_sent_to_the_workers_and_their_errors_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_clip()
    given: dict[str, Any] = {"data": own_labels(model, 8), "attack": "pgd", "chunk_size": 4, "quiet": True}
    candidate = Candidate(method="tiny", model=model, adapter=radapt.training_free(model, alpha=0.3))
    here = evaluate(candidate, results=tmp_path / "a.sqlite", **given)
    there = evaluate(candidate, results=tmp_path / "b.sqlite", executor="ray", workers=1, transferred="kept", **given)
    assert [(each.percent, each.setting) for each in here] == [(each.percent, each.setting) for each in there]
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 2  # of both chunks, by the worker
    with pytest.raises(SettingsError, match="unknown attack 'pgdd'"):
        evaluate("micro/clip", data="shapes", attack="pgdd", results=tmp_path / "c.sqlite", executor="ray", workers=1)
    with pytest.raises(SettingsError, match=r"3 workers that take \{'GPU': 0.5\} each do not fit: the cluster has"):
        evaluate("micro/clip", data="shapes", executor="ray", workers=3, resources={"GPU": 0.5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"executor": "rya"}, "unknown executor 'rya'; did you mean 'ray'"),
        ({"workers": 2}, "those of executor='ray'"),
        ({"executor": "ray", "workers": 0}, "workers must be"),
        ({"executor": "ray", "resources": {"CPU": -1}}, "the amount of CPU must be"),
        ({"executor": "ray", "device": "cuda:1"}, "'cuda:1' is not there; say device='cuda'"),
        ({"executor": "ray", "device_map": "auto"}, "say how many, with resources="),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        evaluate("micro/clip", data="shapes", n=4, results=tmp_path / "r.sqlite", **settings)


def test_a_worker_that_finds_other_weights_or_data_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_clip()
    taken = {entry.name: None for entry in fields(Request)} | {
        "balanced": False,
        "seed": 0,
        "quiet": True,
        "loading": {},
    }
    taken |= {"candidates": Candidate(method="tiny", model=model), "data": own_labels(model, 4)}
    request = Request(**{**taken, "batch_size": 4, "chunk_size": 4, "split": "test"})
    worker = Worker(1, str(tmp_path))
    (unit,) = worker.do(lambda: request, "units").found
    (measured,) = worker.measure([(0, unit.identity)], (0, 1), [[]])
    assert [sample.position for sample in measured.samples] == [0, 1]
    for wrong in ((0, "another"), (1, unit.identity)):
        with pytest.raises(CheckError, match="not those that the evaluation was planned with"):
            worker.measure([wrong], (0, 1), [[]])
    assert replace(unit, digests=unit.digests[::-1]).identity != unit.identity


def test_paths_are_those_of_this_process_and_what_workers_warn_of_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip()
    monkeypatch.chdir(tmp_path)
    radapt.training_free(model, alpha=0.3).save_pretrained("adapter")

    def dark(pixels: torch.Tensor) -> torch.Tensor:
        warnings.warn("it is dark in here", RuntimeWarning, stacklevel=2)
        return pixels / 2

    lines: Any = {"by path": (model, "adapter"), "dark": (model, dark)}
    given: dict[str, Any] = {"data": own_labels(model, 8), "attack": None, "chunk_size": 2, "quiet": True}
    with pytest.warns(RuntimeWarning, match="it is dark in here") as told:
        there = evaluate(lines, results="b.sqlite", executor="ray", workers=2, **given)
    assert len(told) == 1
    with pytest.warns(RuntimeWarning, match="dark"):
        assert [each.percent for each in evaluate(lines, results="a.sqlite", **given)] == [e.percent for e in there]


def test_workers_that_find_no_place_keep_nobody_waiting(tmp_path: Path) -> None:
    import ray

    given: dict[str, Any] = {"data": "shapes", "n": 8, "attack": None, "chunk_size": 2, "quiet": True}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:

        class Other:
            def here(self) -> bool:
                return True

        other = ray.remote(Other).options(num_cpus=1).remote()
        assert ray.get(other.here.remote())
        for number, workers in enumerate(
            (2, None)
        ):  # the second of two finds no place; so one is as many as there is room
            found = evaluate(
                "micro/clip", results=tmp_path / f"{number}.sqlite", executor="ray", workers=workers, **given
            )
            assert found[0].n == 8
    finally:
        ray.shutdown()


def test_one_cluster_serves_several_evaluations_though_its_first_start_fails_and_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    started, start = [0], ray.init

    def init(**settings: Any) -> object:
        started[0] += 1
        if started[0] == 1:
            raise Exception("The current node timed out during startup.")  # as Ray says it
        return start(**settings)

    monkeypatch.setattr(ray, "init", init)
    model = tiny_clip()
    plan: dict[str, Any] = {"data": own_labels(model, 4), "attack": "pgd", "options": {"steps": 2}, "sanity": False}
    with one_cluster():
        for number in range(2):
            candidate = Candidate(method="tiny", model=model)
            found = evaluate(candidate, **plan, results=tmp_path / f"{number}", executor="ray", workers=1, quiet=True)
            assert [each.n for each in found] == [4, 4]
            assert ray.is_initialized()
            if number == 1:
                ray.shutdown()  # by somebody else, with the workers
        assert started == [2]
        found = evaluate(candidate, **plan, results=tmp_path / "2", executor="ray", workers=1, quiet=True)
        assert [each.n for each in found] == [4, 4]
        ray.shutdown()
    assert started == [3]
    assert not ray.is_initialized()


def test_one_cluster_keeps_its_workers_until_something_fails(tmp_path: Path) -> None:
    import ray

    models = [tiny_clip(seed=0), tiny_clip(seed=1)]
    plan: dict[str, Any] = {"attack": "pgd", "options": {"steps": 2}, "sanity": False, "quiet": True}
    seen = list[list[int]]()
    with one_cluster():
        for number, model in enumerate(models):
            own, data = Candidate(method="tiny", model=model), own_labels(model, 4)
            evaluate(own, data=data, results=tmp_path / f"{number}", executor="ray", workers=1, **plan)
            evaluate(own, data=data, results=tmp_path / f"{number} alone", **plan)
            assert rows(tmp_path / f"{number}") == rows(tmp_path / f"{number} alone")
            seen.append(workers())
            (worker,) = _executor._SHARED.get().workers
            assert not ray.get(worker.__ray_call__.remote(lambda self: "_bench" in vars(self)))
        with pytest.raises(SettingsError, match="unknown source"):
            evaluate(own, data=data, results=tmp_path / "r", executor="ray", workers=1, source="nobody", **plan)
        evaluate(own, data=data, results=tmp_path / "2", executor="ray", workers=1, **plan)
        seen.append(workers())
        # Other terms, other workers: two of them now.
        evaluate(own, data=data, results=tmp_path / "3", executor="ray", workers=2, **plan)
        seen.append(workers())
    assert not ray.is_initialized()
    assert len(seen[0]) == 1
    assert seen[1] == seen[0]
    assert not set(seen[2]) & set(seen[0])
    assert not set(seen[3]) & set(seen[2])


@pytest.mark.parametrize(
    ("address", "says"), [(None, "the machine is busy"), ("10.0.0.1:6379", "cluster at RAY_ADDRESS=10.0.0.1:6379")]
)
def test_a_ray_that_does_not_start_is_one_clear_error(
    address: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(**settings: Any) -> object:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ExecutorError, match=f"(?s){says}.*timed out during startup|timed out during startup.*{says}"):
        evaluate("micro/clip", data="shapes", n=2, executor="ray", results=tmp_path / "r", quiet=True)

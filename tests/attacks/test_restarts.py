"""Restarts that end in any order, beside the same ones taken one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radapt.attacks._restarts import Job, RestartQueue
from radapt.attacks.pgd import PGD

RESTARTS, SAMPLES = 5, 4
COUNTS = ("iterations", "vanished")
FLAGS = ("fooled", "failed", "given_up", "audited")


@dataclass(frozen=True, kw_only=True)
class Going(PGD):
    """Goes on after a success."""

    _stops_when_fooled = False


def one(rng: Random) -> dict[str, Any]:
    kind = rng.choices(["plain", "fooled", "failed", "given_up"], [6, 2, 1, 2])[0]
    found: dict[str, Any] = {"value": float(rng.randint(0, 4)), "audited": rng.random() < 0.3}
    found |= {name: rng.randint(0, 9) for name in COUNTS}
    return found | ({kind: True} if kind != "plain" else {})


def serial(found: list[dict[str, Any]], stops: bool) -> dict[str, Any]:
    """One restart after the other."""
    total: dict[str, Any] = {"value": 0.5, "best": -1, "misjudged": False}
    total |= dict.fromkeys(FLAGS, False) | dict.fromkeys(COUNTS, 0)
    for restart, each in enumerate(found):
        fooled = each.get("fooled", False)
        if (fooled, each["value"]) > (total["fooled"], total["value"]):
            total["best"], total["value"] = restart, each["value"]
        for name in FLAGS:
            total[name] |= each.get(name, False)
        for name in COUNTS:
            total[name] += each[name]
        total["misjudged"] |= fooled and each["audited"]
        if each.get("failed") or (fooled and stops):
            break
    return total


def given_to(job: Job, found: dict[str, Any]) -> Job:
    for name, what in found.items():
        setattr(job, name, torch.tensor(what) if name == "value" else what)
    job.best = torch.full((3, 1, 1), float(job.restart))
    return job


@given(seed=st.integers(0, 10**6), stops=st.booleans(), batch_size=st.integers(1, 9))
def test_restarts_count_in_their_order_whatever_order_they_end_in(seed: int, stops: bool, batch_size: int) -> None:
    rng = Random(seed)
    found = [[one(rng) for _ in range(RESTARTS)] for _ in range(SAMPLES)]
    kind = PGD if stops else Going
    queue = RestartQueue(kind(eps=0.1, restarts=RESTARTS), torch.full((SAMPLES, 3, 1, 1), -1.0))
    queue.begin(torch.full((SAMPLES,), 0.5), torch.zeros(SAMPLES, dtype=torch.bool))
    queue.open(range(SAMPLES))
    running: list[Job] = []
    begun: list[tuple[int, int]] = []
    while True:
        while len(running) < batch_size and (job := queue.take(ahead=True)):
            begun.append((job.sample, job.restart))
            running.append(job)
        if not running:
            break
        if rng.random() < 0.1:
            # Out of memory: these begin again.
            queue.put_back(running)
            begun = [each for each in begun if each not in [(job.sample, job.restart) for job in running]]
            running = []
            continue
        job = running.pop(rng.randrange(len(running)))
        queue.end(given_to(job, found[job.sample][job.restart]))
        running = [each for each in running if queue.is_needed(each)]
    assert len(set(begun)) == len(begun)
    assert queue.done == SAMPLES
    assert not queue.unfinished.any()
    for sample in range(SAMPLES):
        expected = serial(found[sample], stops)
        for name in (*FLAGS, *COUNTS, "misjudged", "value"):
            assert getattr(queue, name)[sample] == expected[name], name
        assert queue.best[sample, 0, 0, 0] == expected["best"]


def test_no_restart_begins_ahead_while_a_first_one_waits() -> None:
    queue = RestartQueue(PGD(eps=0.1, restarts=3), torch.zeros(3, 3, 1, 1))
    queue.open([0, 1, 2])
    taken = [queue.take(ahead=True) for _ in range(10)]
    order = [(job.sample, job.restart) for job in taken if job]
    assert order == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]
    assert taken[-1] is None


def test_no_restart_begins_ahead_unless_it_may() -> None:
    queue = RestartQueue(PGD(eps=0.1, restarts=3), torch.zeros(2, 3, 1, 1))
    queue.open([0, 1])
    taken = [queue.take(ahead=False) for _ in range(3)]
    assert [(job.sample, job.restart) for job in taken if job] == [(0, 0), (1, 0)]
    assert taken[0]
    queue.end(given_to(taken[0], {"value": 1.0}))
    following = queue.take(ahead=False)
    assert following
    assert (following.sample, following.restart) == (0, 1)


def test_passes_are_those_of_all_restarts_and_their_share_is_of_those_that_count() -> None:
    queue = RestartQueue(PGD(eps=0.1, restarts=3), torch.full((2, 3, 1, 1), -1.0))
    queue.begin(torch.zeros(2), torch.tensor([False, True]))
    queue.open([0])
    first, second = queue.take(ahead=True), queue.take(ahead=True)
    assert first
    assert second
    queue.count([0, 0], forwards=2, backwards=3)
    queue.count([1], forwards=1)
    queue.end(given_to(second, {"value": 1.0, "iterations": 5, "finished": True, "vanished": 5}))
    queue.end(given_to(first, {"value": 1.0, "iterations": 4, "fooled": True, "vanished": 1}))
    assert (queue.forwards.tolist(), queue.backwards.tolist()) == ([4, 1], [6, 0])
    # The second restart is forgotten; the first was fooled in its fifth pass.
    assert (queue.graded.tolist(), queue.vanished.tolist()) == ([5, 0], [1, 0])


@pytest.mark.parametrize("ended", [False, True])
def test_when_time_is_up_what_runs_is_kept(ended: bool) -> None:
    queue = RestartQueue(PGD(eps=0.1, restarts=3), torch.full((2, 3, 1, 1), -1.0))
    queue.begin(torch.zeros(2), torch.tensor([True, False]))
    queue.open([1])
    first, second = queue.take(ahead=True), queue.take(ahead=True)
    assert first
    assert second
    plain = {"value": 1.0, "iterations": 4}
    running = [given_to(second, {**plain, "value": 2.0}), given_to(first, plain)]
    if ended:
        queue.end(running.pop(0))
    queue.close(running)
    assert queue.unfinished.tolist() == [False, True]
    assert queue.best[1, 0, 0, 0] == 1
    assert queue.iterations.tolist() == [0, 8]
    assert queue.done == 2
    assert queue.take(ahead=True) is None

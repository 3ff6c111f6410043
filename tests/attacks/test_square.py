"""Square against a reference written from the paper's algorithms 1 to 3: one sample at a time, in float64, in NumPy."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from radapt.attacks import Objective, Score, make, round_8bit
from radapt.attacks._search import Evaluation
from radapt.attacks.square import Square, bump, share, words
from radapt.errors import SettingsError

EPS = {"linf": 0.1, "l2": 0.6}
MASK = 2**64 - 1


class Waves(Objective):
    """A loss with many hills, ``sum sin(w x + b)``; keeps what it sees, and nothing is ever fooled."""

    losses = ("margin",)

    def __init__(self, size: int, side: tuple[int, int] = (9, 9)) -> None:
        generator = torch.Generator().manual_seed(8)
        self.size = size
        self.rate = 20 + 40 * torch.rand(size, 3, *side, generator=generator).double()
        self.phase = 6 * torch.rand(size, 3, *side, generator=generator).double()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def value(self, pixels: Tensor, index: Tensor) -> Tensor:
        return torch.sin(self.rate[index] * pixels.double() + self.phase[index]).flatten(1).sum(1)

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        assert not pixels.requires_grad
        value = self.value(pixels, index)
        self.seen.append((pixels.clone(), index.clone(), value))
        return Score(value, torch.zeros(len(index), dtype=torch.bool))


def splitmix(seed: int, first: int, count: int) -> list[int]:
    """Outputs of the generator from number ``first`` on, in whole numbers of Python, from its definition."""
    outputs = []
    for number in range(first, first + count):
        z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        outputs.append(z ^ (z >> 31))
    return outputs


def hill(height: int, width: int) -> np.ndarray:
    """Eq. 2, entry by entry, with rows and columns from 1 on."""
    n = max(height, width) // 2
    result = np.zeros((height, width))
    for r in range(1, height + 1):
        for s in range(1, width + 1):
            m = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
            result[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
    return result / math.sqrt((result**2).sum()) if height else result


@cache
def hill_and_valley(side: int) -> np.ndarray:
    both = np.concatenate([hill(side // 2, side), -hill(side - side // 2, side)])
    return both / math.sqrt((both**2).sum())


def window_side(norm: str, iteration: int, steps: int, height: int, width: int, p_init: float) -> int:
    scaled = int(iteration / steps * 10000)
    p = p_init
    for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if scaled > mark:
            p /= 2
    side = round(math.sqrt(p * height * width))
    if norm == "l2":
        side = max(side, 3)
        side += side % 2 == 0
    return min(max(side, 1), height, width)


def candidate(
    norm: str, best: np.ndarray, clean: np.ndarray, iteration: int, steps: int, seed: int
) -> tuple[np.ndarray, bool]:
    """The next point, and whether the old change cancelled the new one."""
    eps, (_, height, width) = EPS[norm], clean.shape
    side = window_side(norm, iteration, steps, height, width, 0.8)
    draws = [number >> 32 for number in splitmix(seed, 8 * iteration, 8)]
    top, left, top_2, left_2 = (draws[i] * ((height, width)[i % 2] - side + 1) // 2**32 for i in range(4))
    signs, turned = [2 * (draw % 2) - 1 for draw in draws[4:7]], draws[7] % 2 == 1
    if norm == "linf":
        delta = np.zeros_like(clean)
        for channel in range(3):
            delta[channel, top : top + side, left : left + side] = 2 * eps * signs[channel]
        return np.clip(np.clip(best + delta, clean - eps, clean + eps), 0, 1), False
    change = best - clean
    unused = max(eps**2 - (change**2).sum(), 0)
    shape = hill_and_valley(side)
    shape = shape.T if turned else shape
    union = np.zeros((height, width), dtype=bool)
    union[top : top + side, left : left + side] = True
    union[top_2 : top_2 + side, left_2 : left_2 + side] = True
    result, cancelled = change.copy(), False
    for channel in range(3):
        old = change[channel, top : top + side, left : left + side]
        size = math.sqrt((old**2).sum())
        fresh = signs[channel] * shape
        mixed = fresh + (old / size if size > 0 else 0)
        if math.sqrt((mixed**2).sum()) < 1e-3:
            mixed, cancelled = fresh, True
        available = math.sqrt((change[channel][union] ** 2).sum() + unused / 3)
        result[channel, top_2 : top_2 + side, left_2 : left_2 + side] = 0
        result[channel, top : top + side, left : left + side] = mixed / math.sqrt((mixed**2).sum()) * available
    return np.clip(clean + result, 0, 1), cancelled


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 11), (3, 3)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_step_is_that_of_the_paper(norm: str, height: int, width: int) -> None:
    steps, count = 80, 4
    objective, samples = Waves(count, (height, width)), torch.arange(count)
    clean = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2)).double()
    attack = Square(norm=norm, eps=EPS[norm], steps=steps)
    draws = [attack.draw(clean.shape[1:], torch.Generator().manual_seed(i)) for i in range(count)]
    drawn = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    points, state = attack.start(clean, drawn)
    # In float64, so that the same points are kept as by the reference.
    best = [point.numpy() for point in points]
    losses = objective.value(points, samples).tolist()
    accepted = 0
    for k in range(steps):
        current = Evaluation(points, objective.value(points, samples), torch.zeros(count, dtype=torch.bool), points[:0])
        if k > 0:
            for sample in range(count):
                if current.loss[sample] > losses[sample]:
                    best[sample], losses[sample] = points[sample].numpy(), float(current.loss[sample])
                    accepted += 1
        # Every sample at a step of its own, as when it began later than its neighbours.
        iteration = torch.tensor([(k + 7 * sample) % steps for sample in range(count)])
        points, state = attack.step(clean, current, state, iteration)
        assert torch.equal(state["loss"], torch.tensor(losses, dtype=torch.float64))
        for sample in range(count):
            expected, _ = candidate(
                norm, best[sample], clean[sample].numpy(), int(iteration[sample]), steps, int(draws[sample]["seed"])
            )
            assert np.abs(points[sample].numpy() - expected).max() < 1e-9
    assert accepted > 5


def test_a_change_that_cancels_the_old_one_takes_its_place() -> None:
    clean, steps, seed = torch.full((1, 3, 3, 3), 0.5, dtype=torch.float64), 80, 11
    attack = Square(norm="l2", eps=EPS["l2"], steps=steps)
    for iteration in range(1, 9):
        draws = [number >> 32 for number in splitmix(seed, 8 * iteration, 8)]
        shape = hill_and_valley(3).T if draws[7] % 2 else hill_and_valley(3)
        old = np.stack([(1 - 2 * (draw % 2)) * 0.1 * shape for draw in draws[4:7]])
        best = clean + torch.from_numpy(old)
        state = {"seed": torch.tensor([seed]), "best": best, "loss": torch.zeros(1, dtype=torch.float64)}
        current = Evaluation(best, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.bool), best[:0])
        points, _ = attack.step(clean, current, state, torch.tensor([iteration]))
        expected, cancelled = candidate("l2", best[0].numpy(), clean[0].numpy(), iteration, steps, seed)
        assert cancelled
        assert np.abs(points[0].numpy() - expected).max() < 1e-9


def test_the_random_numbers_are_those_of_splitmix() -> None:
    # Published outputs for this seed.
    assert splitmix(1234567, 0, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    seeds = torch.tensor([1234567, 0, 2**62 - 1, 987654321987654321])
    for iteration in (0, 1, 4999):
        numbers = words(seeds, torch.full((4,), iteration))
        for row, seed in enumerate(seeds.tolist()):
            outputs = splitmix(seed, 8 * iteration, 8)
            assert numbers[row].tolist() == [output >> 32 for output in outputs]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
def test_the_bump_is_that_of_the_paper(side: int) -> None:
    assert np.abs(bump(side).numpy() - hill_and_valley(side)).max() < 1e-12
    assert float(bump(side).square().sum()) == pytest.approx(1)


def test_the_share_of_the_window_is_that_of_the_paper() -> None:
    table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2000: 32, 2001: 64}
    table |= {4000: 64, 4001: 128, 6000: 128, 6001: 256, 8000: 256, 8001: 512, 10000: 512}
    for iteration, divisor in table.items():
        assert share(iteration, 10_000, 0.8) == pytest.approx(0.8 / divisor)
        # With half the steps, twice as soon.
        assert share(iteration // 2, 5_000, 0.4) == share(iteration // 2 * 2, 10_000, 0.4)


draws = st.tuples(st.sampled_from(["linf", "l2"]), st.integers(0, 10**6), st.floats(1e-3, 1), st.integers(2, 13))


@pytest.mark.slow
@given(draws)
@settings(max_examples=25)
def test_every_candidate_is_in_the_ball_and_the_loss_never_falls(draw: tuple[str, int, float, int]) -> None:
    norm, seed, eps, side = draw
    clean = torch.rand(4, 3, side, side + 1, generator=torch.Generator().manual_seed(seed))
    clean[0] = clean[0].round()
    objective = Waves(4, (side, side + 1))
    outcome = Square(norm=norm, eps=eps, steps=30)(objective, clean, seed=seed, batch_size=4)
    best = torch.full((4,), -torch.inf).double()
    *seen, rounded = objective.seen
    assert torch.equal(rounded[0], round_8bit(outcome.pixels))
    for points, index, value in seen:
        change = (points.double() - clean[index].double()).flatten(1)
        distance = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert distance.max() <= eps + 1e-6
        assert points.min() >= 0
        assert points.max() <= 1
        best = best.scatter_reduce(0, index, value, "amax")
    assert torch.allclose(outcome.loss.double(), best, rtol=1e-5)
    assert (outcome.loss >= outcome.clean_loss).all()
    # A start, thirty steps, the clean image and the two fresh passes.
    assert outcome.forwards.tolist() == [34] * 4
    assert not outcome.backwards.any()


@pytest.mark.parametrize("side", [3, 9, 24])
def test_l2_spends_the_whole_length(side: int) -> None:
    # Far from black and white, nothing is cut off.
    objective, clean = Waves(4, (side, side)), torch.full((4, 3, side, side), 0.5)
    Square(norm="l2", eps=0.3, steps=60)(objective, clean, batch_size=4)
    for points, _, _ in objective.seen[1:-2]:
        assert torch.allclose((points - clean).flatten(1).norm(dim=1), torch.full((4,), 0.3), atol=1e-6)


def test_linf_starts_from_vertical_stripes_and_stays_in_the_corners() -> None:
    objective, clean = Waves(4), torch.full((4, 3, 9, 9), 0.5)
    Square(eps=0.1, steps=60)(objective, clean, batch_size=4)
    stripes = (objective.seen[1][0] - clean).sign()
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert len(stripes[:, :, 0].flatten(1).unique(dim=0)) == 4
    assert 0.3 < (stripes > 0).float().mean() < 0.7
    for points, _, _ in objective.seen[1:-2]:
        assert torch.allclose((points - clean).abs(), torch.full_like(clean, 0.1), atol=1e-6)


def test_l2_starts_from_a_grid_of_bumps() -> None:
    attack, clean = Square(norm="l2", eps=0.3), torch.full((1, 3, 17, 22), 0.5)
    drawn = {name: each[None] for name, each in attack.draw(clean.shape[1:], torch.Generator().manual_seed(1)).items()}
    points, _ = attack.start(clean, drawn)
    change = (points - clean)[0].double().numpy()
    # Tiles of three pixels, five down and seven across, in the middle.
    assert not change[:, [0, -1]].any()
    assert not change[:, :, 21:].any()
    shape = hill_and_valley(3) * 0.3 / math.sqrt(3 * 5 * 7)
    kinds = set()
    for channel in range(3):
        for top in range(1, 16, 3):
            for left in range(0, 21, 3):
                tile = change[channel, top : top + 3, left : left + 3]
                matches = [
                    (sign, turned)
                    for sign in (-1, 1)
                    for turned in (False, True)
                    if np.abs(tile - sign * (shape.T if turned else shape)).max() < 1e-6
                ]
                assert len(matches) == 1
                kinds |= set(matches)
    assert len(kinds) == 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_windows_reach_every_place(norm: str) -> None:
    attack, clean = Square(norm=norm, eps=0.1, steps=400), torch.full((1, 3, 6, 7), 0.5)
    drawn = {name: each[None] for name, each in attack.draw(clean.shape[1:], torch.Generator()).items()}
    points, state = attack.start(clean, drawn)
    current = Evaluation(points, torch.ones(1), torch.zeros(1, dtype=torch.bool), points[:0])
    hits = torch.zeros(6, 7)
    for k in range(400):
        candidate, _ = attack.step(clean, current, state, torch.tensor([k]))
        hits += ((candidate - points).abs() > 1e-6).any(1)[0]
    assert (hits > 0).all()


@pytest.mark.parametrize("p_init", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(p_init: float) -> None:
    with pytest.raises(SettingsError, match="p_init"):
        make("square", eps=0.1, p_init=p_init)

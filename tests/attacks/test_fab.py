"""FAB against a reference written from the paper's algorithm 1: one sample at a time, in float64, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, EmbeddingObjective, Objective, Score, make
from radapt.attacks._search import Evaluation
from radapt.attacks.fab import FAB, shortest
from radapt.errors import InputError, SettingsError

EPS = {"linf": 0.05, "l2": 0.3}


def moved(norm: str, w: np.ndarray, x: np.ndarray, amount: float) -> np.ndarray:
    """A point by ``amount`` down the slope of ``<w, .>``, cut to the box."""
    return np.clip(x - amount * (np.sign(w) if norm == "linf" else w), 0, 1)


def projected(norm: str, x: np.ndarray, gap: float, w: np.ndarray) -> np.ndarray:
    """Projection by bisection; by the optimality conditions it has the form of ``moved``."""
    if gap < 0:
        gap, w = -gap, -w
    low, high = 0.0, 1.0 if norm == "linf" else 1 / max(np.abs(w[w != 0]).min(initial=np.inf), 1e-300)
    if gap + float((w * (moved(norm, w, x, high) - x)).sum()) > 0:
        return moved(norm, w, x, high)
    for _ in range(100):
        middle = (low + high) / 2
        if gap + float((w * (moved(norm, w, x, middle) - x)).sum()) > 0:
            low = middle
        else:
            high = middle
    return moved(norm, w, x, high)


def size(norm: str, change: np.ndarray) -> float:
    return float(np.abs(change).max()) if norm == "linf" else math.sqrt(float((change**2).sum()))


def case(seed: int, spread: float, zeros: float, border: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (some pixels black or white), values of a plane there and its normals (some entries zero)."""
    generator = torch.Generator().manual_seed(seed)
    points, *shares = torch.rand(3, 4, 3, 2, 3, generator=generator).double()
    normal = torch.randn(4, 3, 2, 3, generator=generator).double()
    points = torch.where(shares[0] < border, points.round(), points)
    normal = normal * (shares[1] >= zeros)
    gap = spread * torch.randn(4, generator=generator).double()
    return points, gap, normal


draws = st.tuples(
    st.sampled_from(["linf", "l2"]),
    st.tuples(st.integers(0, 10**6), st.floats(1e-3, 20), st.floats(0, 1), st.floats(0, 1)),
)


@given(draws)
@settings(max_examples=40)
def test_a_shortest_change_is_that_of_a_bisection(draw: tuple[str, tuple[int, float, float, float]]) -> None:
    norm, (seed, spread, zeros, border) = draw
    points, gap, normal = case(seed, spread, zeros, border)
    change = shortest(norm, points, gap, normal)
    assert (points + change).min() >= -1e-12
    assert (points + change).max() <= 1 + 1e-12
    for row in range(4):
        x, w, found = points[row].numpy(), normal[row].numpy(), change[row].numpy()
        expected = projected(norm, x, float(gap[row]), w) - x
        # A pixel on which the plane does not depend must not move.
        assert not found[w == 0].any()
        assert np.abs(found - expected).max() < 1e-9
    # In float32, too, and whatever the scale of the plane.
    short = shortest(norm, points.float(), 1e-9 * gap.float(), 1e-9 * normal.float())
    assert torch.allclose(short.double(), change, atol=2e-5)


@given(st.tuples(st.integers(0, 10**6), st.floats(1e-3, 5), st.floats(0, 0.7), st.floats(0, 1)))
@settings(max_examples=40)
def test_a_shortest_change_in_linf_solves_the_linear_programme(draw: tuple[int, float, float, float]) -> None:
    points, gap, normal = case(*draw)
    change = shortest("linf", points, gap, normal)
    for row in range(4):
        x, w, value = points[row].flatten().numpy(), normal[row].flatten().numpy(), float(gap[row])
        n = len(x)
        # Variables: the change, and its largest entry, which is to be least.
        limits = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        bounds = [*zip(-x, 1 - x, strict=True), (0, None)]
        cost, plane = np.append(np.zeros(n), 1), np.append(w, 0)[None]
        solution = linprog(cost, limits, np.zeros(2 * n), plane, [-value], bounds)
        left = value + float(w @ change[row].flatten().numpy())
        if solution.status == 0:
            assert abs(left) < 1e-7
            assert float(change[row].abs().max()) == pytest.approx(solution.fun, abs=1e-7)
        else:
            # Out of reach: as near as the box allows.
            nearest = abs(value) - float(np.maximum(-np.sign(value) * w * (1 - x), np.sign(value) * w * x).sum())
            assert nearest > -1e-9
            assert abs(left) == pytest.approx(nearest, abs=1e-9)


@given(st.tuples(st.integers(0, 10**6), st.floats(1e-3, 2), st.floats(0, 0.5), st.floats(0, 0.5)))
@settings(max_examples=40)
def test_no_other_point_of_the_plane_and_the_box_is_nearer(draw: tuple[int, float, float, float]) -> None:
    points, gap, normal = case(*draw)
    others = torch.rand(400, 3, 2, 3, generator=torch.Generator().manual_seed(draw[0])).double()
    for norm in ("linf", "l2"):
        change = shortest(norm, points, gap, normal)
        for row in range(4):
            x, w = points[row].numpy(), normal[row].numpy()
            least = size(norm, change[row].numpy())
            # A segment from one side of the plane to the other, inside the box, meets it in the box.
            values = float(gap[row]) + ((others.numpy() - x) * w).sum((1, 2, 3))
            below, above = others.numpy()[values < 0], others.numpy()[values > 0]
            for low, high, a, b in zip(below, above, values[values < 0], values[values > 0], strict=False):
                met = low + (high - low) * (-a / (b - a))
                assert size(norm, met - x) >= least - 1e-9


def test_a_point_on_the_plane_and_a_plane_without_normal_need_no_change() -> None:
    points, normal = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    normal[1] = 0
    for norm in ("linf", "l2"):
        assert not shortest(norm, points, torch.tensor([0.0, 1.0]), normal).any()


class Waves(Objective):
    """Logits ``sum a sin(w x + b) + c``, in closed form for the reference."""

    losses = ("margin", "margin-targeted")

    def __init__(self, size: int, classes: int = 8) -> None:
        generator = torch.Generator().manual_seed(8)
        self.size, self.classes = size, classes
        shape = (size, classes, 3, 3, 4)
        # Some classes are steeper than others, so that the nearest is not always the likeliest.
        self.height = torch.randn(shape, generator=generator).double()
        self.height *= torch.linspace(0.3, 1.5, classes)[:, None, None, None]
        self.rate = 3 + 12 * torch.rand(shape, generator=generator).double()
        self.phase = 6 * torch.rand(shape, generator=generator).double()

    def logits(self, pixels: Tensor) -> Tensor:
        return (self.height * torch.sin(self.rate * pixels[:, None] + self.phase)).flatten(2).sum(2)

    def at(self, sample: int, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, rate, phase = (part[sample].numpy() for part in (self.height, self.rate, self.phase))
        angle = rate * point + phase
        return (height * np.sin(angle)).sum((1, 2, 3)), height * rate * np.cos(angle)


def reference(
    waves: Waves, sample: int, norm: str, clean: np.ndarray, label: int, target: int | None, steps: int
) -> tuple[list[np.ndarray], list[str]]:
    """All points of one sample from the clean image on, and what happened at each step."""
    x, points, events = clean, [clean], []
    returned = False
    for _ in range(steps):
        z, slopes = waves.at(sample, x)
        if z.argmax() != label and not returned:
            x, returned = 0.1 * clean + 0.9 * x, True
            events.append("return")
        else:
            returned = False
            nearness = {}
            for each in range(len(z)):
                slope = slopes[each] - slopes[label]
                dual = np.abs(slope).sum() if norm == "linf" else math.sqrt((slope**2).sum())
                if each != label:
                    nearness[each] = abs(z[each] - z[label]) / dual
            chosen = min(nearness, key=nearness.__getitem__) if target is None else target
            w, gap = slopes[chosen] - slopes[label], z[chosen] - z[label]
            here = projected(norm, x, gap, w) - x
            there = projected(norm, clean, gap + float((w * (clean - x)).sum()), w) - clean
            pull = min(size(norm, here) / (size(norm, here) + size(norm, there)), 0.1)
            ahead = (1 - pull) * (x + 1.05 * here) + pull * (clean + 1.05 * there)
            events.append("capped" if pull == 0.1 else "pulled")
            events += ["cut"] if (ahead != np.clip(ahead, 0, 1)).any() else []
            events += ["likelier"] if any(z[each] > z[chosen] for each in nearness) else []
            x = np.clip(ahead, 0, 1)
        points.append(x)
    return points, events


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["margin", "margin-targeted"])
def test_every_step_is_that_of_the_paper(norm: str, loss: str) -> None:
    waves, steps = Waves(6), 30
    clean = torch.rand(6, 3, 3, 4, generator=torch.Generator().manual_seed(2)).double()
    clean[:, 0] = clean[:, 0].round()
    order = waves.logits(clean).argsort(1, descending=True)
    label, target = order[:, 0], order[:, 2]
    attack, rows = FAB(norm=norm, eps=EPS[norm], steps=steps, loss=loss), torch.arange(6)
    draw = {name: each[None].expand(6, -1, -1, -1) for name, each in attack.draw((3, 3, 4), torch.Generator()).items()}
    points, state = attack.start(clean, {**draw, "label": label, "target": target})
    points, path = clean, [clean]
    for k in range(steps):
        leaf = points.detach().requires_grad_(True)
        z = waves.logits(leaf)
        gap = z[rows, target] - z[rows, label]
        outputs = [gap] if attack.targeted else z.unbind(1)
        slopes = [torch.autograd.grad(output.sum(), leaf, retain_graph=True)[0] for output in outputs]
        gradient = slopes[0] if attack.targeted else torch.stack(slopes, 1)
        current = Evaluation(points, gap.detach(), z.argmax(1) != label, gradient, z.detach())
        points, state = attack.step(clean, current, state, torch.full((6,), k))
        path.append(points)
    kinds = set()
    for sample in range(6):
        goal = int(target[sample]) if attack.targeted else None
        expected, events = reference(waves, sample, norm, clean[sample].numpy(), int(label[sample]), goal, steps)
        assert np.abs(torch.stack(path)[:, sample].numpy() - np.stack(expected)).max() < 1e-9
        kinds |= set(events)
    # The case is worth nothing unless the rules come into play.
    assert kinds >= {"return", "capped", "pulled", "cut", "likelier"}


def linear(classes: int = 4) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 108, generator=torch.Generator().manual_seed(3)))
    return model


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["margin", "margin-targeted"])
def test_it_fools_a_linear_model_wherever_that_is_possible(norm: str, loss: str) -> None:
    model, pixels = linear(), 0.4 + 0.2 * torch.rand(40, 3, 6, 6)
    with torch.no_grad():
        logits, weight = model(pixels), model[1].weight.detach()
    labels = logits.argmax(1)
    slopes = weight[None] - weight[labels][:, None]
    dual = slopes.abs().sum(2) if norm == "linf" else slopes.norm(dim=2)
    needed = (
        ((logits.gather(1, labels[:, None]) - logits) / dual.clamp(min=1e-9)).scatter(1, labels[:, None], 9).amin(1)
    )
    objective, eps = ClassificationObjective(model, labels, 4), float(needed.median())
    outcome = make("fab", norm=norm, eps=eps, loss=loss, steps=12, restarts=3)(objective, pixels, batch_size=40)
    clear = (needed / eps - 1).abs() > 0.01
    assert clear.sum() > 30
    assert torch.equal(outcome.fooled[clear], (needed < eps)[clear])
    assert (outcome.distance <= eps + 1e-6).all()
    # And finds the nearest image that fools, if asked to.
    objective = ClassificationObjective(model, labels, 4)
    wide = make("fab", norm=norm, eps=0.9, loss=loss, steps=12, restarts=3, nearest=True)
    outcome = wide(objective, pixels, batch_size=40)
    assert outcome.fooled.all()
    assert (outcome.distance >= needed - 1e-6).all()
    assert (outcome.distance <= 1.01 * needed).all()
    assert (outcome.iterations == 36).all()


class Recorder(Objective):
    """A classifier that keeps the points that are asked for with gradients."""

    def __init__(self, model: nn.Module, pixels: Tensor, losses: tuple[str, ...] = ()) -> None:
        with torch.no_grad():
            labels = model(pixels).argmax(1)
        self._objective = ClassificationObjective(model, labels, 4)
        self.size, self.losses = self._objective.size, self._objective.losses
        self.seen: list[Tensor] = []
        self.targets: list[Tensor | None] = []

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "", target: Tensor | None = None) -> Score:
        if pixels.requires_grad:
            self.seen.append(pixels.detach().clone())
            self.targets.append(target)
        return self._objective(pixels, index, loss=loss, target=target)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_starts_at_the_clean_image_and_then_at_random_ones(norm: str) -> None:
    # Too small a ball for any success.
    pixels = 0.4 + 0.2 * torch.rand(5, 3, 6, 6)
    objective = Recorder(linear(), pixels)
    attack = make("fab", norm=norm, eps=1e-4, steps=4, restarts=3)
    outcome = attack(objective, pixels, batch_size=5)
    assert not outcome.fooled.any()
    starts = objective.seen[::4]
    assert len(starts) == 3
    assert torch.equal(starts[0], pixels)
    for start in starts[1:]:
        assert torch.allclose(attack.ball.distance(start, pixels), torch.full((5,), 5e-5), rtol=1e-2)
    assert not torch.allclose(starts[1] - pixels, starts[2] - pixels, atol=1e-6)
    given = attack.ball.project(pixels + 1e-4, pixels)
    objective.seen.clear()
    attack(objective, pixels, batch_size=5, start=given)
    assert torch.allclose(objective.seen[0], given, atol=1e-7)


def test_a_targeted_search_goes_for_one_class_after_the_other_from_the_clean_image() -> None:
    pixels = 0.4 + 0.2 * torch.rand(5, 3, 6, 6)
    objective = Recorder(linear(), pixels)
    make("fab", eps=1e-4, steps=4, restarts=3, loss="margin-targeted")(objective, pixels, batch_size=5)
    with torch.no_grad():
        order = linear()(pixels).argsort(1, descending=True)
    for restart in range(3):
        assert torch.equal(objective.seen[4 * restart], pixels)
        target = objective.targets[4 * restart]
        assert target is not None
        assert torch.equal(target, order[:, 1 + restart])


def test_a_point_outside_the_ball_is_no_success_and_is_never_kept() -> None:
    attack, clean = make("fab", eps=0.1), torch.full((4, 3, 2, 2), 0.5)
    points = clean + torch.tensor([0.1, 0.101, 0.05, -0.2])[:, None, None, None]
    current = Evaluation(
        points, torch.tensor([1.0, 5.0, -1.0, 3.0]), torch.tensor([True, True, False, True]), points[:0]
    )
    assert attack._succeeded(clean, current).tolist() == [True, False, False, False]
    assert attack._value(clean, current).tolist() == [1.0, -math.inf, -1.0, -math.inf]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ce-targeted"}, "'margin-targeted' only, got 'ce-targeted'"),
        ({"eta": 0.9}, "eta"),
        ({"alpha_max": 1.5}, "alpha_max"),
        ({"beta": 0.0}, "beta"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make("fab", eps=0.1, **settings)


def test_an_objective_without_classes_is_refused() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    objective = EmbeddingObjective(nn.Flatten(), pixels.flatten(1))
    with pytest.raises(InputError, match="that of a classifier"):
        make("fab", eps=0.1, loss="")(objective, pixels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_shortest_change_does_not_depend_on_the_neighbours(norm: str) -> None:
    draw = torch.Generator().manual_seed(5)
    points, normal = torch.rand(24, 3, 8, 8, generator=draw), torch.randn(24, 3, 8, 8, generator=draw)
    # Near the border and far from it, so that some arrive at once and others go from piece to piece.
    points[::2] = points[::2].round().clamp(0.001, 0.999)
    gap = torch.logspace(-3, 1.5, 24)
    together = shortest(norm, points, gap, normal)
    for row in range(24):
        rows = [row] * 24
        assert torch.equal(shortest(norm, points[rows], gap[rows], normal[rows])[0], together[row])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_slopes_too_small_to_divide_by_do_no_harm(norm: str) -> None:
    points, normal = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    normal[:, 0, 0, 0], normal[:, 0, 0, 1] = 1.0, 1e-39
    change = shortest(norm, points, torch.tensor([0.1, 100.0]), normal)
    assert change.isfinite().all()
    # The plane is within reach of one pixel, and then beyond all of them.
    assert change[:, 0, 0, 0].tolist() == pytest.approx([-0.1, -0.5])

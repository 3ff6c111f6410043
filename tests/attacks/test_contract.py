"""What every attack must do; a new file in the folder is tested on arrival."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import Attack, ClassificationObjective, Outcome, SearchAttack, make, names
from radapt.errors import InputError, SettingsError

Attacked = Callable[[nn.Module, Tensor], ClassificationObjective]


# The first search of FAB draws no random numbers, a search without gradients needs more steps, and so does one that
# shares them out among several values of a constant.
SETTINGS: dict[str, dict[str, object]] = {
    "fab": {"restarts": 2},
    "square": {"steps": 50},
    "cw": {"steps": 90},
    "autoattack": {"n_queries": 20, "n_target_classes": 2},
}


# Those that take longest: five in both norms, the others in one.
SLOW = {(name, "l2") for name in ("band", "low-frequency")}
SLOW |= {(name, norm) for name in ("apgd-ensemble", "autoattack", "cw", "fab", "square") for norm in ("linf", "l2")}
BALLS = [(name, norm, eps) for name in names() for norm, eps in (("linf", 0.02), ("l2", 0.12))]


@pytest.fixture(
    params=[pytest.param(ball, marks=[pytest.mark.slow] if ball[:2] in SLOW else []) for ball in BALLS],
    ids=[f"{name}-{norm}" for name, norm, _ in BALLS],
)
def attack(request: pytest.FixtureRequest) -> Attack:
    name, norm, eps = request.param
    return make(name, norm=norm, eps=eps, **{"steps": 12, **SETTINGS.get(name, {})})


def part(objective: ClassificationObjective, rows: Tensor) -> ClassificationObjective:
    return ClassificationObjective(objective._logits, objective.labels[rows], 4)


def assert_same(one: Outcome, other: Outcome, rows: Tensor) -> None:
    """Sample ``i`` of ``one`` is sample ``rows[i]`` of ``other``, to the last bit."""
    for field in vars(one):
        assert torch.equal(getattr(one, field), getattr(other, field)[rows]), field


# cw in l2 says that it hardly moves the two images that are all black or all white.
@pytest.mark.filterwarnings("ignore:.* images are nearly all black and white:UserWarning")
def test_images_stay_in_the_ball_and_in_the_box(
    attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked
) -> None:
    pixels[0], pixels[1] = 0.0, 1.0
    outcome = attack(attacked(model, pixels), pixels, batch_size=8)
    change = (outcome.pixels.double() - pixels.double()).flatten(1)
    distance = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
    assert outcome.pixels.shape == pixels.shape
    assert outcome.pixels.dtype == torch.float32
    assert outcome.pixels.min() >= 0
    assert outcome.pixels.max() <= 1
    assert distance.max() <= attack.eps + 1e-6
    assert torch.allclose(outcome.distance.double(), distance, atol=1e-6)
    # A search that never leaves the middle of the ball is no attack.
    assert distance.max() > 0.5 * attack.eps


def test_the_verdict_and_the_loss_are_those_of_the_returned_images(
    attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked
) -> None:
    objective = attacked(model, pixels)
    outcome = attack(objective, pixels, batch_size=23)
    with torch.no_grad():
        score = objective(outcome.pixels, torch.arange(23), loss=getattr(attack, "loss", ""))
        clean = objective(pixels, torch.arange(23), loss=getattr(attack, "loss", ""))
    assert torch.equal(outcome.fooled, score.fooled)
    assert torch.allclose(outcome.clean_loss, clean.loss, rtol=1e-5)
    # The later stages of an ensemble have losses of their own.
    first = outcome.stage == 0
    assert first.sum() > 5
    assert torch.allclose(outcome.loss[first], score.loss[first], rtol=1e-5)
    if isinstance(attack, SearchAttack):
        assert torch.equal(outcome.loss_rose, outcome.loss > outcome.clean_loss)
    assert outcome.fooled.sum() > clean.fooled.sum()
    assert not outcome.fooled.all()
    assert not outcome.unconfirmed.any()


@pytest.mark.slow
def test_neighbours_order_and_shards_change_roundings_only(
    attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked
) -> None:
    objective, keys = attacked(model, pixels), [f"set/{i}" for i in range(23)]
    whole = attack(objective, pixels, keys=keys, batch_size=4)
    assert_same(attack(objective, pixels, keys=keys, batch_size=4), whole, torch.arange(23))
    for rows in (torch.arange(22, -1, -1), torch.arange(0, 23, 2), torch.arange(1, 23, 2), torch.tensor([6])):
        shard = attack(part(objective, rows), pixels[rows], keys=[keys[i] for i in rows], batch_size=4)
        assert torch.equal(shard.fooled, whole.fooled[rows])
        assert torch.equal(shard.iterations, whole.iterations[rows])
        # A rounded gradient may turn the sign of a pixel or the choice of a random search, and few do.
        near = (shard.pixels - whole.pixels[rows]).flatten(1).abs().amax(1) < 1e-4
        assert near.float().mean() >= 0.75


@pytest.mark.slow
def test_the_batch_size_does_not_change_verdicts(
    attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked
) -> None:
    outcomes = [attack(attacked(model, pixels), pixels, batch_size=batch_size) for batch_size in (1, 7, 64)]
    for other in outcomes[1:]:
        assert torch.equal(outcomes[0].fooled, other.fooled)
        assert torch.equal(outcomes[0].iterations, other.iterations)


def test_the_seed_and_the_key_draw_the_random_numbers(attack: Attack, pixels: Tensor, attacked: Attacked) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    objective = attacked(model, pixels)
    state = torch.get_rng_state()
    first = attack(objective, pixels, batch_size=8)
    assert_same(attack(objective, pixels, batch_size=8, seed=0), first, torch.arange(23))
    other_seed = attack(objective, pixels, batch_size=8, seed=1)
    other_keys = attack(objective, pixels, batch_size=8, keys=[f"other/{i}" for i in range(23)])
    fixed = attack.name in ("fgsm", "mi-fgsm") or (attack.name, attack.norm) == ("cw", "l2")
    assert torch.equal(first.pixels, other_seed.pixels) == fixed
    assert torch.equal(first.pixels, other_keys.pixels) == fixed
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_is_left_as_it_was(attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = pixels.clone()
    attack(attacked(model, pixels), pixels, batch_size=8)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(pixels, given)
    assert not pixels.requires_grad


def test_a_misclassified_image_is_left_alone(
    attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked
) -> None:
    outcome = attack(attacked(model, pixels), pixels, batch_size=8)
    wrong = torch.arange(23) % 5 == 0
    assert outcome.fooled[wrong].all()
    assert torch.equal(outcome.pixels[wrong], pixels[wrong])
    assert not outcome.distance[wrong].any()
    assert not outcome.iterations[wrong].any()
    assert not outcome.backwards[wrong].any()
    assert outcome.iterations[~wrong & ~outcome.fooled].all()


def test_it_works_where_gradients_are_off(attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked) -> None:
    expected = attack(attacked(model, pixels), pixels, batch_size=8)
    objective = attacked(model, pixels)
    with torch.inference_mode():
        outcome = attack(objective, pixels + 0, batch_size=8)
    assert_same(outcome, expected, torch.arange(23))


def test_a_warm_start_is_at_least_as_good_as_its_starting_points(
    attack: Attack, model: nn.Module, pixels: Tensor, attacked: Attacked
) -> None:
    objective = attacked(model, pixels)
    first = attack(objective, pixels, batch_size=8)
    second = attack(objective, pixels, batch_size=8, start=first.pixels, seed=5)
    assert (second.fooled | ~first.fooled).all()
    assert (second.loss >= first.loss - 1e-6)[~first.fooled].all()


def test_rounding_outside_the_box_is_forgiven(attack: Attack, pixels: Tensor, attacked: Attacked) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = -3e-8, 1 + 2e-7
    outcome = attack(attacked(model, pixels), pixels, batch_size=8)
    assert outcome.pixels.min() >= 0
    assert outcome.pixels.max() <= 1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.zeros(2, 1, 6, 6), "N x 3 x height x width"),
        (torch.zeros(3, 6, 6), "N x 3 x height x width"),
        (torch.zeros(0, 3, 6, 6), "at least one image"),
        (torch.zeros(2, 3, 6, 6, dtype=torch.uint8), "divide bytes by 255"),
        (torch.full((2, 3, 6, 6), 255.0), r"must lie in \[0, 1\]"),
        (torch.full((2, 3, 6, 6), -0.01), r"must lie in \[0, 1\]"),
        (torch.full((2, 3, 6, 6), torch.nan), "sample 0 contain NaN"),
        (torch.full((2, 3, 6, 6), torch.inf), r"must lie in \[0, 1\]"),
        (torch.zeros(3, 3, 6, 6), "the objective has 2 samples, but there are 3 images"),
    ],
)
def test_wrong_images_are_refused(attack: Attack, broken: Tensor, message: str) -> None:
    objective = ClassificationObjective(nn.Flatten(), torch.tensor([0, 1]), 108)
    with pytest.raises(InputError, match=message):
        attack(objective, broken)


def test_wrong_keys_starts_batch_sizes_and_losses_are_refused(attack: Attack) -> None:
    objective, pixels = ClassificationObjective(nn.Flatten(), torch.tensor([0, 1]), 108), torch.rand(2, 3, 6, 6)
    with pytest.raises(InputError, match="got 1 keys for 2 images"):
        attack(objective, pixels, keys=["a"])
    with pytest.raises(InputError, match="start has shape"):
        attack(objective, pixels, start=pixels[:1])
    with pytest.raises(SettingsError, match="batch_size must be a whole number of at least 1, got 0"):
        attack(objective, pixels, batch_size=0)
    if isinstance(attack, SearchAttack):
        with pytest.raises(SettingsError, match="margin"):
            make(attack.name, eps=0.1, loss="margins")(objective, pixels)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf", "eps": 4.0}, "write 4/255 instead of 4"),
        ({"norm": "linf", "eps": 0.0}, "above 0"),
        ({"norm": "l2", "eps": -1.0}, "above 0"),
        ({"norm": "l2", "eps": float("nan")}, "above 0"),
        ({"norm": "l1", "eps": 0.1}, "unknown norm 'l1'.*Allowed: l2, linf"),
        ({"eps": 0.1, "steps": 0}, "steps must be a whole number"),
        ({"eps": 0.1, "restarts": 0}, "restarts must be a whole number|no setting 'restarts'"),
        ({"eps": 0.1, "epsilon": 1}, "no setting 'epsilon'; did you mean '(eps|version)'"),
        ({}, "needs eps"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(name, **settings)


def test_an_unknown_attack_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="unknown attack 'apdg'; did you mean"):
        make("apdg", eps=0.1)
    assert {"pgd", "apgd"} <= set(names())


def named(name: str, **changes: object) -> Attack:
    """An attack with few steps."""
    return make(name, **{"norm": "linf", "eps": 0.1, "steps": 12, **SETTINGS.get(name, {}), **changes})


def broken(model: nn.Module, wrong: Callable[[Tensor], Tensor], value: float) -> Callable[[Tensor], Tensor]:
    """A model whose logits all have this value on some images."""

    def logits(images: Tensor) -> Tensor:
        return torch.where(wrong(images)[:, None], value, model(images))

    return logits


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_sample_whose_logits_are_not_numbers_fails_and_the_others_are_attacked(
    name: str, everywhere: bool, pixels: Tensor
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    pixels[:, 0, 0, 0] = 0.5
    if not everywhere:
        pixels[7, 0, 0, 0] = 1.0
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    nan = broken(model, lambda images: images[:, 0, 0, 0] > (0.0 if everywhere else 0.8), float("nan"))
    outcome = named(name)(ClassificationObjective(nan, labels, 4), pixels, batch_size=8)
    bad = torch.full((23,), everywhere)
    bad[7] = True
    # No answer is a wrong answer, and one that is marked.
    assert torch.equal(outcome.failed, bad)
    assert outcome.fooled[bad].all()
    assert f"failed={int(bad.sum())}" in repr(outcome)
    assert torch.equal(outcome.pixels[bad], pixels[bad])
    if not everywhere:
        sound = named(name)(ClassificationObjective(model, labels, 4), pixels, batch_size=8)
        assert_same(part_of(outcome, ~bad), sound, (~bad).nonzero().flatten())


def part_of(outcome: Outcome, rows: Tensor) -> Outcome:
    return type(outcome)(**{field: value[rows] for field, value in vars(outcome).items()})


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_on_which_a_model_gives_no_number_fools(name: str, norm: str, pixels: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[1] += 1e-3
        model[1].bias.copy_(torch.tensor([1.0, 0.5, 0.0, -1.0]))
    pixels = torch.full_like(pixels, 0.5)
    labels = torch.zeros(23, dtype=torch.int64)
    # The loss rises with the brightness, and at some brightness in the ball the model breaks.
    nan = broken(model, lambda images: (images.flatten(1).mean(1) - 0.5).abs() > 0.004, float("nan"))
    attack = named(name, norm=norm, eps=0.1 if norm == "linf" else 0.5)
    outcome = attack(ClassificationObjective(nan, labels, 4), pixels, batch_size=8)
    with torch.no_grad():
        answered = nan(outcome.pixels).isfinite().all(1)
    assert torch.equal(outcome.fooled, ~answered)
    assert (outcome.failed | ~outcome.fooled).all()
    assert outcome.distance.max() <= attack.eps + 1e-6
    # What leaves the ball on its way may end outside of it, and says so.
    assert (outcome.fooled | outcome.failed).any() or name in ("square", "band")


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("mask", [float("-inf"), torch.finfo(torch.float32).min])
@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.filterwarnings("ignore:apgd-t of autoattack")
def test_a_class_that_the_model_excludes_changes_no_verdict(
    name: str, mask: float, classes: int, pixels: Tensor
) -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(108, classes))

    def masked(images: Tensor) -> Tensor:
        logits = torch.cat([plain(images)[:, :1], plain(images)], 1)
        return logits.masked_fill(torch.eye(classes + 1, dtype=torch.bool)[0], mask)

    with torch.no_grad():
        labels = plain(pixels).argmax(1)
    attack = named(name, eps=0.02)
    expected = attack(ClassificationObjective(plain, labels, classes), pixels, batch_size=8)
    outcome = attack(ClassificationObjective(masked, labels + 1, classes + 1), pixels, batch_size=8)
    assert torch.equal(outcome.fooled, expected.fooled)
    assert 0 < outcome.fooled.sum() < 23
    assert not outcome.failed.any()
    assert outcome.loss.isfinite().all()


@pytest.mark.parametrize("name", [*names(), "apgd dlr", "apgd dlr-targeted", "pgd ce-targeted", "fab margin-targeted"])
def test_infinite_logits_are_compared_as_they_are(name: str, pixels: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        labels = model(pixels).argmax(1)

    def logits(images: Tensor) -> Tensor:
        added = torch.zeros(len(images), 4)
        added[:, 1] = torch.where(images[:, 0, 0, 0] > 0.5, torch.inf, 0.0)
        return model(images) + added

    name, _, loss = name.partition(" ")
    attack = named(name, eps=0.02, **({"loss": loss} if loss else {}))
    pixels[:12, 0, 0, 0], pixels[12:, 0, 0, 0] = 0.9, 0.1
    outcome = attack(ClassificationObjective(logits, labels, 4), pixels, batch_size=8)
    assert torch.equal(outcome.fooled[:12], labels[:12] != 1)
    assert outcome.loss.isfinite().all()

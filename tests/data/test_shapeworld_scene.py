"""Scenes: what worlds allow, and worlds that allow nothing."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radapt.data import load_dataset
from radapt.data.shapeworld import ATTRIBUTES, World, draw, generator, held_out
from radapt.data.shapeworld.scene import BACKGROUNDS, COLOURS
from radapt.errors import SettingsError


def test_a_fifth_of_the_compositions_is_held_out_evenly() -> None:
    pairs = [(s, c) for s in ATTRIBUTES["shape"] for c in ATTRIBUTES["colour"] if held_out(s, c)]
    assert len(pairs) == 24
    assert set(Counter(shape for shape, _ in pairs).values()) == {2}
    assert set(Counter(colour for _, colour in pairs).values()) <= {2, 3}


@pytest.mark.parametrize("balance", [*ATTRIBUTES, "composition"])
def test_held_out_compositions_never_occur_in_training(balance: str) -> None:
    scenes = draw(World(balance=balance), "train", range(600))
    assert not any(held_out(scene.shape, scene.colour) for scene in scenes)


def test_held_out_compositions_are_all_of_the_compositions_set() -> None:
    data = load_dataset("compositions", n=48)
    scenes = draw(World(pairs="held_out", balance="composition"), "test", range(48))
    names = [data.classes[label] for label in data.labels.tolist()]
    assert names == [f"{scene.colour} {scene.shape}" for scene in scenes]
    assert all(held_out(scene.shape, scene.colour) for scene in scenes)
    assert len(set(names)) == 24


@pytest.mark.parametrize("name", [*ATTRIBUTES, "composition"])
def test_classes_come_in_turn(name: str) -> None:
    world = World(balance=name, pairs="all")
    classes = world.classes(name)
    scenes = draw(world, "test", range(2 * len(classes)))
    assert [scene.describe(name) for scene in scenes] == classes * 2


def test_objects_keep_to_the_frame_of_the_training_distribution() -> None:
    radii = {"small": (0.23, 0.27), "medium": (0.32, 0.36), "large": (0.42, 0.46)}
    for scene in draw(World(), "train", range(300)):
        low, high = radii[scene.size]
        assert low <= scene.radius <= high
        assert max(abs(scene.x - 0.5), abs(scene.y - 0.5)) <= 0.08
        assert abs(scene.angle) <= 0.4
        assert 3 <= scene.period * 48 <= 4.5


def test_generators_of_streams_and_indices_are_independent() -> None:
    draws = {generator(stream, index).random() for stream in ("0/a", "0/b", "1/a") for index in range(200)}
    assert len(draws) == 600
    assert generator("0/a", 5).random() == generator("0/a", 5).random()


@given(name=st.sampled_from([*ATTRIBUTES]), value=st.text(min_size=1))
def test_an_unknown_value_is_refused_with_those_allowed(name: str, value: str) -> None:
    if value not in ATTRIBUTES[name]:
        with pytest.raises(SettingsError, match=f"unknown {name} .*Allowed: ") as caught:
            World.from_dict({name: [value]})
        assert all(allowed in str(caught.value) for allowed in ATTRIBUTES[name])


@given(key=st.text())
def test_an_unknown_option_is_refused(key: str) -> None:
    if key not in World.__dataclass_fields__:
        with pytest.raises(SettingsError, match=r"world: unknown key .*Allowed: "):
            World.from_dict({key: 1})


NUMBERS = {"shift": 0.5, "angle": 3.1415926, "noise": 1.0}


@given(name=st.sampled_from([*NUMBERS]), value=st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_outside_their_range_are_refused(name: str, value: float) -> None:
    if 0 <= value <= NUMBERS[name]:
        assert getattr(World.from_dict({name: value}), name) == value
    else:
        message = f"{name} must be from 0 to " if isfinite(value) else f"world: {name}: input should be a finite number"
        with pytest.raises(SettingsError, match=message):
            World.from_dict({name: value})


@given(low=st.floats(-0.2, 0.8), high=st.floats(-0.2, 0.8))
def test_a_radius_is_a_rising_pair(low: float, high: float) -> None:
    if 0 < low <= high <= 0.5:
        assert World.from_dict({"radius": [low, high]}).radius == (low, high)
    else:
        with pytest.raises(SettingsError, match="radius must be two rising numbers"):
            World.from_dict({"radius": [low, high]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "heldout"}, "did you mean 'held_out'"),
        ({"balance": "color"}, "did you mean 'colour'"),
        ({"shape": 3}, "world: shape: input should be a valid array, got 3"),
        ({"shape": ["circle", "circle"]}, "names a value twice"),
        ({"radius": 0.3}, "world: radius: input should be a valid array, got 0.3"),
        ({"radius": [0.1, 0.2, 0.3]}, "world: radius: tuple should have at most 2 items"),
        ({"noise": "loud"}, "world: noise: input should be a valid number, got 'loud'"),
        ({"noise": True}, "world: noise: input should be a valid number, got True"),
        ({"contrast": 0}, "contrast must be more than 0 and at most 1, got 0"),
        ({"contrast": -0.5}, "contrast must be more than 0 and at most 1, got -0.5"),
        ({"contrast": 1.5}, "contrast must be more than 0 and at most 1, got 1.5"),
        ({"contrast": float("nan")}, "world: contrast: input should be a finite number, got nan"),
        ({"contrast": True}, "world: contrast: input should be a valid number, got True"),
        ({"clutter": -1}, "clutter must be 0 or more"),
        ({"clutter": 1.5}, "world: clutter: input should be a valid integer, got 1.5"),
        ({"outline": 1}, "world: outline: input should be a valid boolean, got 1"),
        ({"grey": "yes"}, "world: grey: input should be a valid boolean, got 'yes'"),
        ({"shape": "circle", "colour": "red"}, "circle cannot be drawn"),
        ({"shape": "circle", "colour": "red", "balance": "composition"}, "circle cannot be drawn"),
        ({"colour": "brown", "background": "olive", "pairs": "all"}, "brown objects would be invisible"),
    ],
)
def test_a_wrong_world_is_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        World.from_dict(options)


def test_a_single_name_and_a_whole_number_are_read_as_meant() -> None:
    assert World.from_dict({"shape": "star", "noise": 0}) == World(shape=("star",), noise=0.0)


def some(name: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(ATTRIBUTES[name]), unique=True, max_size=3)


def drawable(options: dict[str, Any]) -> bool:
    """Whether each value that is drawn first leaves a partner and a background that contrasts with it."""
    chosen = {name: options[name] or ATTRIBUTES[name] for name in ATTRIBUTES}
    kept = {"seen": (False,), "held_out": (True,), "all": (False, True)}[options["pairs"]]
    pairs = [(s, c) for s in chosen["shape"] for c in chosen["colour"] if held_out(s, c) in kept]
    first = {"composition": set(), "colour": set(chosen["colour"])}.get(options["balance"], set(chosen["shape"]))
    if not pairs or not first <= {value for pair in pairs for value in pair}:
        return False
    contrast = {
        c: max(max(abs(a - b) for a, b in zip(COLOURS[c], BACKGROUNDS[g], strict=True)) for g in chosen["background"])
        for _, c in pairs
    }
    return options["balance"] == "background" or min(contrast.values()) > 0.3


@pytest.mark.slow
@settings(max_examples=150)
@given(
    options=st.fixed_dictionaries(
        {
            **{name: some(name) for name in ATTRIBUTES},
            "pairs": st.sampled_from(["seen", "held_out", "all"]),
            "balance": st.sampled_from([*ATTRIBUTES, "composition"]),
        }
    )
)
def test_a_world_is_accepted_when_and_only_when_it_can_be_drawn(options: dict[str, Any]) -> None:
    if not drawable(options):
        with pytest.raises(SettingsError, match=r"cannot be drawn|invisible"):
            World.from_dict(options)
        return
    world = World.from_dict(options)
    for scene in draw(world, "test", range(30)):
        for name in ATTRIBUTES:
            assert getattr(scene, name) in (options[name] or ATTRIBUTES[name])
        assert options["pairs"] == "all" or held_out(scene.shape, scene.colour) == (options["pairs"] == "held_out")
        assert scene.describe(options["balance"]) in world.classes(options["balance"])

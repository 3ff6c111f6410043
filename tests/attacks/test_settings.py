"""Every setting of every attack is checked when the attack is made: its type and its range."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from radapt.attacks import REGISTRY, ClassificationObjective, SearchAttack, make, names
from radapt.attacks._settings import check_call
from radapt.errors import SettingsError

# As Python writes them: they are read in a process of its own, where nothing but the library checks types.
NO_TEXT = ["True", "3", "0.5", "None", "['linf']", "{'a': 1}"]
NO_FLAG = ["'maybe'", "'true'", "''", "1", "0", "None", "0.0"]
NO_WHOLE = ["'10'", "2.0", "True", "None", "0", "-1", "10**30", "10**5000", "10**6 + 1", "nan", "inf", "[3]"]
NO_NUMBER = ["'0.1'", "'4/255'", "True", "nan", "inf", "-inf", "-1", "1e30", "10**400", "[0.1]", "1 + 2j", "None"]
WRONG = {"str": NO_TEXT, "Norm": NO_TEXT, "bool": NO_FLAG, "int": NO_WHOLE, "float": NO_NUMBER}
SETTINGS = [(name, field.name, str(field.type)) for name in names() for field in fields(REGISTRY.get(name))]

TRY = """
import json, sys
from math import inf, nan
from radapt.attacks import make
from radapt.errors import SettingsError

def tried(name, settings, value):
    try:
        make(name, **{**settings, **({value[0]: eval(value[1])} if value else {})})
    except SettingsError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__} instead: {error}"
    return "made"

print(json.dumps([tried(*case) for case in json.load(sys.stdin)]))
"""
RANDOM = """
from dataclasses import MISSING, fields
from hypothesis import HealthCheck, given, settings, strategies as st
from radapt.attacks import make, names
from radapt.attacks import REGISTRY
from radapt.io import fraction
from radapt.errors import SettingsError

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
MIXED = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(st.text(max_size=2), PLAIN, max_size=1))
made = refused = 0

SLOWLY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

@settings(max_examples=1500, **SLOWLY, database=None, derandomize=True)
@given(data=st.data())
def test(data):
    global made, refused
    name = data.draw(st.sampled_from(names()))
    known = {f.name: st.just(f.default) for f in fields(REGISTRY.get(name)) if f.default is not MISSING}
    known |= {"norm": st.sampled_from(["linf", "l2"]), "eps": st.floats(1e-3, 1)}
    changed = data.draw(st.sets(st.sampled_from(sorted(known)), max_size=2))
    given = {key: data.draw(MIXED if key in changed else value) for key, value in known.items()}
    try:
        attack = make(name, **given)
    except SettingsError:
        refused += 1
        return
    made += 1
    given["eps"] = fraction(given["eps"])
    assert all(getattr(attack, key) == value for key, value in given.items())

test()
assert made > 300 and refused > 300, (made, refused)
"""


TEXTS = [("eps", "'0.1'"), ("eps", "'4/255'")]
"""What is a number all the same, as one may write a radius."""


def base(setting: str) -> dict[str, Any]:
    """What else an attack needs for a setting to have an effect."""
    needs: dict[str, dict[str, Any]] = {
        "resize_rate": {"diversity_prob": 0.5},
        "eot_iter": {"version": "rand"},
        **{key: {"norm": "l2"} for key in ("search_steps", "initial_c", "lr")},
    }
    return {"eps": 0.1, **needs.get(setting, {})}


def run(script: str, given: object = None) -> str:
    """What a script prints, in a process of its own."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_values_of_another_type_or_out_of_range_are_refused() -> None:
    cases = [
        (name, base(setting), (setting, value))
        for name, setting, kind in SETTINGS
        for value in WRONG[kind.removesuffix(" | None")]
        if not (kind.endswith("| None") and value == "None") and (setting, value) not in TEXTS
    ]
    assert len(cases) > 500
    for case, message in zip(cases, json.loads(run(TRY, cases)), strict=True):
        assert case[2][0] in message.partition("got")[0], (case, message)
        assert " instead: " not in message, (case, message)


@pytest.mark.slow
def test_an_attack_is_made_or_refused_whatever_it_is_given() -> None:
    run(RANDOM)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("norm", "eps"), [("linf", 1e-40), ("l2", 1e-12), ("l2", 1e30), ("linf", 10**400)])
def test_radii_that_change_nothing_or_everything_are_refused(name: str, norm: str, eps: float) -> None:
    with pytest.raises(SettingsError, match="eps must be"):
        make(name, norm=norm, eps=eps)


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("mi-fgsm", {"resize_rate": 0.5}, "resize_rate=0.5 has no effect without diversity_prob"),
        ("cw", {"lr": 0.5}, "lr=0.5 has no effect in linf"),
        ("cw", {"search_steps": 3}, "search_steps=3 has no effect in linf"),
        ("autoattack", {"version": "rand", "n_queries": 10}, "n_queries=10 has no effect in version 'rand'"),
        ("autoattack", {"version": "robustvlm", "n_queries": 10}, "n_queries=10 has no effect in version 'robustvlm'"),
        ("autoattack", {"eot_iter": 3}, "eot_iter=3 has no effect in version 'standard'"),
        ("pgd", {"momentum": 1e30}, "momentum must be a number of at least 0, 1 at most, got 1e"),
        ("pgd", {"step_size": 1e-40}, "step_size must be a number of at least 1e-09"),
        ("pgd", {"name": "apgd"}, "attack 'pgd' has no setting 'name'"),
    ],
)
def test_settings_without_an_effect_are_refused(name: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        make(name, eps=0.1, **given)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seed": 10**23}, r"seed must be a whole number of at least 0, 9\.22337e\+18 at most"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 10**20}, r"batch_size must be a whole number of at least 1, 1e\+06 at most"),
        ({"precision": torch.float64}, "precision must be"),
        ({"seconds": -1.0}, "seconds must be a number"),
        ({"seconds": float("nan")}, "seconds must be a number"),
    ],
)
def test_wrong_arguments_of_a_call_are_refused(
    name: str, call: dict[str, Any], message: str, model: Any, pixels: Tensor
) -> None:
    objective = ClassificationObjective(model, torch.zeros(23, dtype=torch.int64), 4)
    with pytest.raises(SettingsError, match=message):
        make(name, eps=0.1)(objective, pixels, **call)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if issubclass(REGISTRY.get(name), SearchAttack)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_extreme_settings_that_are_allowed_run(name: str, norm: str, model: Any, pixels: Tensor) -> None:
    extreme: dict[str, dict[str, Any]] = {
        "pgd": {"step_size": 1e6, "momentum": 1.0},
        "mi-fgsm": {"diversity_prob": 1.0, "resize_rate": 1e-6, "momentum": 1.0},
        "apgd": {"rho": 1 - 1e-9, "growth": 1e6},
        "fab": {"eta": 1e6, "alpha_max": 1.0, "beta": 1e-6},
        "square": {"p_init": 1e-6, "growth": 1e-6},
        "cw": {"kappa": 1e6, **({"initial_c": 1e6, "lr": 1e6} if norm == "l2" else {})},
        "low-frequency": {"cutoff": 1e6},
    }
    objective = ClassificationObjective(model, torch.zeros(23, dtype=torch.int64), 4)
    for eps in (1e-6, 1.0 if norm == "linf" else 1e6):
        chosen = make(name, norm=norm, eps=eps, steps=12, **extreme.get(name, {}))
        outcome = chosen(objective, pixels, batch_size=23)
        assert outcome.pixels.isfinite().all()
        assert not outcome.failed.any()


@pytest.mark.parametrize(("name", "value"), [("seed", 0.5), ("seed", True), ("batch_size", 1e20), ("batch_size", True)])
def test_numbers_of_another_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be a whole number of at least"):
        check_call(**{"seed": 0, "batch_size": 1, "precision": None, "seconds": None, name: value})


@pytest.mark.parametrize(
    ("attack", "there", "here"),
    [
        ("pgd", "alpha", "step_size"),
        ("apgd", "n_iter", "steps"),
        ("apgd", "n_restarts", "restarts"),
        ("square", "n_queries", "steps"),
        ("cw", "confidence", "kappa"),
        ("mi-fgsm", "decay", "momentum"),
    ],
)
def test_the_names_of_other_libraries_are_answered_with_ours(attack: str, there: str, here: str) -> None:
    with pytest.raises(SettingsError, match=f"no setting '{there}'; what others call so is '{here}' here"):
        make(attack, eps=0.1, **{there: 1})
    assert here in {field.name for field in fields(REGISTRY.get(attack))}
    assert make(attack, eps="4/255").eps == 4 / 255


def test_a_name_that_nobody_has_is_met_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="no setting 'stepz'; did you mean 'steps'"):
        make("pgd", eps=0.1, stepz=1)
    with pytest.raises(SettingsError, match="no setting 'alpha'"):  # which has nothing like it
        make("square", eps=0.1, alpha=1)
    with pytest.raises(SettingsError, match="eps must be a number or a fraction such as 4/255, got 'much'"):
        make("pgd", eps="much")

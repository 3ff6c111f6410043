"""A real results file with invented samples: eight methods, three data sets, one threat."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radapt.results import Example, Results, Sample, Setting

METHODS = {  # clean, transfer, white-box: successes of 200 on the first data set
    "CLIP": (150, 22, 1),
    "TeCoA": (112, 98, 71),
    "FARE": (126, 104, 66),
    "R-Adapt_CLIP": (146, 121, 4),
    "R-Adapt_FARE": (124, 109, 63),
    "R-Adapt_TeCoA": (110, 101, 70),
    "R-Adapt+ (static)": (144, 130, 9),
    "R-Adapt+ (adaptive)": (145, 133, None),
}
DATASETS = {"shapes": 0, "colours": 12, "digits": -16}
N = 200


def setting(method: str, dataset: str = "shapes", source: str = "", **changes: object) -> Setting:
    attacked: dict[str, object] = {"attack": "apgd", "norm": "linf", "eps": 4 / 255} if source else {}
    base: dict[str, object] = {
        "method": method,
        "model": f"models/{method}",
        "dataset": dataset,
        "n": N,
        "source": source,
        "version": "1.0",
        **attacked,
    }
    return Setting(**(base | changes))  # type: ignore[arg-type]


def png(colour: int, side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), colour, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def measure(store: Results, chosen: Setting, successes: int, n: int = N, seconds: float = 1.5) -> Setting:
    store.begin(chosen)
    samples = [
        Sample(
            position=at, label=1, prediction=int(at < successes), score=float(at < successes), forwards=10, backwards=9
        )
        for at in range(n)
    ]
    store.add(chosen, samples, seconds=seconds)
    return chosen


def fill(path: Path) -> Path:
    with Results(path) as store:
        for dataset, shift in DATASETS.items():
            for at, (method, (clean, transfer, white_box)) in enumerate(METHODS.items()):
                measure(store, setting(method, dataset), clean + shift)
                measure(store, setting(method, dataset, "undefended"), max(0, transfer + shift + at % 3))
                if white_box is not None:
                    attacked = measure(store, setting(method, dataset, "self"), max(0, white_box + shift // 3))
                    examples = [
                        Example(
                            position=k,
                            clean=png(120),
                            adversarial=png(124),
                            truth="circle",
                            before="circle",
                            after="star",
                        )
                        for k in range(2)
                    ]
                    store.add(attacked, [], examples=examples if dataset == "shapes" and at < 4 else [])
        store.flag(setting("R-Adapt_CLIP", "digits", "self"), {"zero gradients": "31 % of the pixels"})
    return path


@pytest.fixture(scope="session")
def results_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; read only."""
    return fill(tmp_path_factory.mktemp("results") / "results.sqlite")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Results]:
    """A results file from (setting, successes) pairs."""

    def build(*entries: tuple[Setting, int], n: int = N) -> Results:
        with Results(tmp_path / "made.sqlite") as store:
            for chosen, successes in entries:
                measure(store, chosen, successes, n)
        return Results(tmp_path / "made.sqlite", read_only=True)

    return build

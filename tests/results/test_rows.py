"""Whatever is measured comes back from a results file as it was written, checksum and all."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from radapt.results import SIGNS, Results, Sample, Setting

SETTING = Setting(method="CLIP", model="m", dataset="shapes", n=1, version="1")
FLOATS = st.floats(allow_nan=False, allow_infinity=True)
COUNTS = st.integers(0, 2**62)


@settings(max_examples=100)
@example({"label": 0, "prediction": 0, "score": -0.0, "loss": -0.0, "distance": -0.0})
@example({"label": 0, "prediction": 0, "score": 1.0, "loss": math.nan})
@example({"label": 0, "prediction": 0, "score": 5e-324, "loss": -5e-324, "distance": 1e308})
@given(
    st.fixed_dictionaries(
        {
            "label": st.integers(-1, 10**6),
            "prediction": st.integers(-1, 10**6),
            "score": FLOATS,
            "also": st.dictionaries(st.text(max_size=5), FLOATS, max_size=3),
            "answer": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            "loss": st.none() | FLOATS,
            "iterations": COUNTS,
            "forwards": COUNTS,
            "backwards": COUNTS,
            "distance": FLOATS,
            "signs": st.lists(st.sampled_from(SIGNS), unique=True).map(tuple),
            "data": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        }
    )
)
def test_a_sample_comes_back_as_it_was_written(values: dict[str, Any]) -> None:
    sample = Sample(position=0, **values)
    with tempfile.TemporaryDirectory() as folder:
        with Results(Path(folder) / "r.sqlite") as store:
            store.begin(SETTING)
            store.add(SETTING, [sample])
        with Results(Path(folder) / "r.sqlite", read_only=True) as store:
            (found,) = store.samples(SETTING)
    expected = {**vars(sample), "also": json.loads(json.dumps(sample.also))}
    if sample.loss is not None and math.isnan(sample.loss):
        expected["loss"] = None
    assert vars(found) == expected

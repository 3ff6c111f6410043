"""How long people wait in the browser: for a slider and the first step of an attack, and for a report to open.

    python benchmarks/browser.py [--times 20] [--rows 100000] [--model NAME] [--json FILE]

Needs ``radapt[browser-test]`` and Chromium (``RADAPT_TEST_BROWSER`` names it, else it is the one on the path). The
playground runs in a process of its own, for one user, on micro/clip or the model that is named; the report is of
invented samples of ten methods on ten data sets, clean, white-box and by transfer, with images. A time ends when the
browser has drawn what is new.
The file holds one flat object: ``slider``, ``first_step`` and ``report`` (milliseconds: the median), each with its
``_worst`` and its ``_goal``, ``times`` (how often each was measured), ``rows`` and ``megabytes`` (of the report),
``cores`` and ``load`` (runnable processes on them, at the beginning and at the end), and ``version``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from large_results import made_up, settings
from PIL import Image

from radapt._version import __version__
from radapt.reports import write_report
from radapt.results import Example, Results

GOALS = {"slider": 300, "first_step": 1000, "report": 2000}
"""Milliseconds."""
METHODS, DATASETS, SIDE, EXAMPLES = 10, 10, 96, 4
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Resolves once the next frame is on the screen."""


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = (os.environ.get("RADAPT_TEST_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        sys.exit("this needs Chromium: install it (scripts/chromium.sh), or name it in RADAPT_TEST_BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def playground(model: str | None) -> Iterator[str]:
    """``radapt ui`` in a process of its own, and its address."""
    command = [sys.executable, "-m", "radapt", "ui", *(() if model is None else ("--model", model))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"open (http://\S+)", line):
                    yield found[1]
                    break
            else:
                sys.exit("the playground has not started:\n" + "".join(said))
        finally:
            process.terminate()


def milliseconds(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - started)


def sliders(page: Any, times: int) -> list[float]:
    """From the key to the new answers of both models."""
    found = []
    text = "document.querySelector('#ra-answers .prose').innerHTML"
    for at in range(times):
        control, key = (("alpha", "ArrowRight"), ("d0", "ArrowLeft"))[at % 2]
        page.locator(f"#ra-{control} input[type=range]").focus()
        before = page.evaluate(text)

        def act(key: str = key, before: str = before) -> None:
            page.keyboard.press(key)
            page.wait_for_function(f"old => {text} !== old", arg=before, polling="raf")
            page.evaluate(DRAWN)

        found.append(milliseconds(act))
        page.wait_for_timeout(500)  # the attention maps follow
    return found


def first_steps(page: Any, times: int) -> list[float]:
    """From the click to the first step, of attacks that are stopped then."""
    found = []
    page.click("#ra-attack input")
    page.get_by_role("option", name="square", exact=True).click()
    page.click("#ra-eps input")
    page.get_by_role("option", name="1/255", exact=True).click()
    for _ in range(times):

        def act() -> None:
            page.click("#ra-start")
            page.wait_for_selector("#ra-outcome progress")
            page.evaluate(DRAWN)

        found.append(milliseconds(act))
        page.click("#ra-stop")
        page.wait_for_selector("#ra-outcome .ra-verdict")
        page.wait_for_timeout(500)
        page.reload()  # the outcome of the attack before goes
        page.wait_for_selector("#ra-attention .ra-card")
        page.click("#ra-attack input")
        page.get_by_role("option", name="square", exact=True).click()
        page.wait_for_timeout(300)
    return found


def pictures(draw: np.random.Generator) -> list[Example]:
    """Images that do not compress, which is the worst for a page, with maps of 14 x 14 patches."""

    def png(*shape: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    return [
        Example(
            position=at, clean=png(SIDE, SIDE, 3), adversarial=png(SIDE, SIDE, 3), truth="x", before="x", after="y",
            attention_before=png(14, 14), attention_after=png(14, 14),
        )
        for at in range(EXAMPLES)
    ]  # fmt: skip


def make_report(rows: int, folder: Path) -> Path:
    samples, draw = -(-rows // (3 * METHODS * DATASETS)), np.random.default_rng(0)
    with Results(folder / "results.sqlite") as store:
        for setting in settings(METHODS, DATASETS, samples):
            store.begin(setting)
            own = made_up(setting, ["0" * 32] * samples)
            store.add(setting, own, seconds=1.0, examples=pictures(draw) if setting.source else [])
            store.flag(setting, {}, checked=samples)
    [page] = write_report(folder / "results.sqlite", folder / "report", formats=["html"])
    return page


def opened(browser: Any, report: Path, times: int) -> list[float]:
    """From the address to a page on the screen that is ready, with its plots drawn."""
    found = []
    for _ in range(times):
        page = browser.new_page(viewport={"width": 1280, "height": 900})

        def act(page: Any = page) -> None:
            page.goto(report.as_uri(), wait_until="load")
            page.wait_for_selector("#tradeoff svg .dot")
            page.evaluate(DRAWN)

        found.append(milliseconds(act))
        page.close()
    return found


def measure(times: int, rows: int, model: str | None) -> dict[str, str | int | float]:
    """All figures."""
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        report = make_report(rows, Path(folder))
        found = {"report": opened(browser, report, times)}
        size = report.stat().st_size
        with playground(model) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(address)
            page.wait_for_selector("#ra-attention .ra-card")
            page.wait_for_timeout(1000)
            found["slider"] = sliders(page, times)
            found["first_step"] = first_steps(page, times)
    load.append(os.getloadavg()[0])
    figures: dict[str, str | int | float] = {"benchmark": "browser", "times": times}
    for name, goal in GOALS.items():
        figures |= {name: round(statistics.median(found[name])), f"{name}_worst": round(max(found[name]))}
        figures[f"{name}_goal"] = goal
    facts = {"rows": rows, "megabytes": round(size / 1e6, 2), "cores": len(os.sched_getaffinity(0))}
    return {**figures, **facts, "load": " to ".join(f"{each:.1f}" for each in load), "version": __version__}


def main() -> None:
    parser = argparse.ArgumentParser(description="How long people wait in the browser.")
    parser.add_argument("--times", type=int, default=20, help="how often each is measured")
    parser.add_argument("--rows", type=int, default=100_000, help="of the results file behind the report")
    parser.add_argument("--model", help="of the playground; by default micro/clip and its other default ones")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = measure(options.times, options.rows, options.model)
    for name, goal in GOALS.items():
        print(f"{name:10} {figures[name]:>5} ms, at worst {figures[f'{name}_worst']:>5} ms (goal: under {goal})")
    print(
        f"report: {figures['rows']:,} rows, {figures['megabytes']} MB; load {figures['load']}, {figures['cores']} cores"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""``radapt demo``: the main job on the embedded world, in a few minutes and without a download."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._kept import trained
from ._shared import Json, Quiet, console, guard, write_rows

if TYPE_CHECKING:
    from radapt.adapt import Adapter
    from radapt.models import VLM

__all__ = ["demo"]

# Set beforehand, the same for every data set, and not tuned; `radapt tune` chooses them on a validation split.
_ALPHA = {"clip": 0.4, "fare": 0.4, "tecoa": 0.4, "static": 0.8, "adaptive": 0.8}
_SETS = "shapes,textures,compositions"
# Short trainings, so that the demo takes minutes; `radapt adapt data-driven` takes the paper's 2,000 images.
_IMAGES, _STEPS = 1000, {"static": 40, "adaptive": 12}


def _anchor(model: VLM, adversary: str, out: Path, quiet: bool) -> Adapter:
    from radapt.data import load_dataset

    images = load_dataset("objects", split="train", n=_IMAGES)
    settings: dict[str, Any] = {"adversary": adversary, "steps": _STEPS[adversary], "alpha": _ALPHA[adversary]}
    pixels = images.pixels(range(len(images)))
    return trained(model, pixels, settings, out / f"r-adapt-plus-{adversary}", quiet=quiet)


@guard
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results, the adapters and the report.")] = Path(
        "radapt-demo"
    ),
    n: Annotated[int, typer.Option(help="Images per data set.")] = 100,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Adapt a CLIP in three ways, attack it from outside and through its defence, and show the trade-off.

    The model, its robust twins and the pictures ship with the package. An interrupted demo continues where it was.

    \b
    [bold]Example:[/]
      radapt demo --out radapt-demo --n 100
    """
    from radapt.adapt import model_guided, training_free
    from radapt.data import load_dataset
    from radapt.evaluate import Candidate, Threat, evaluate
    from radapt.models import load
    from radapt.report import print_table, write_report
    from radapt.results import Results

    started = time.perf_counter()
    clip, fare, tecoa = (load(f"micro/{name}") for name in ("clip", "fare", "tecoa"))
    lines = [
        Candidate(method="CLIP", model=clip),
        Candidate(method="TeCoA", model=tecoa),
        Candidate(method="FARE", model=fare),
        Candidate(method="R-Adapt_CLIP", model=clip, adapter=training_free(clip, alpha=_ALPHA["clip"])),
        Candidate(method="R-Adapt_FARE", model=clip, adapter=model_guided(clip, fare, alpha=_ALPHA["fare"])),
        Candidate(method="R-Adapt_TeCoA", model=clip, adapter=model_guided(clip, tecoa, alpha=_ALPHA["tecoa"])),
        *(
            Candidate(method=f"R-Adapt+ ({adversary})", model=clip, adapter=_anchor(clip, adversary, out, quiet))
            for adversary in ("static", "adaptive")
        ),
    ]
    threats = [
        Threat(attack="pgd", eps=4 / 255, source="undefended", options={"steps": 20}),
        Threat(attack="apgd", eps=4 / 255, source="self", options={"steps": 20}),
    ]
    sets = [load_dataset(name, split="test", n=n) for name in _SETS.split(",")]
    with Results(out / "results.sqlite") as results:
        figures = evaluate(lines, datasets=sets, threats=threats, results=results, undefended=clip, quiet=quiet)
        print_table(results, console)
    write_rows(json, figures)
    for path in write_report(out / "results.sqlite", out / "report"):
        console.print(f"wrote {path}", highlight=False)
    console.print(f"took {time.perf_counter() - started:.0f} s; open {out / 'report' / 'report.html'}", highlight=False)

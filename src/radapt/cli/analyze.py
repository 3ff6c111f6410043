"""``radapt analyze``: where robustness lives in a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radapt.errors import SettingsError
from radapt.find import nearest

from ._analyses import ANALYSES, analyses, check_analysis
from ._ingredients import Replacement
from ._lines import curves_of, replacements
from ._shared import Device, Dtype, Quiet, candidate_parts, console, fraction, guard, load_sets
from .evaluate import options_of

if TYPE_CHECKING:
    from radapt.data import Dataset
    from radapt.models import VLM
    from radapt.plots import Plot

__all__ = ["analyze"]

_REPLACEMENT = {"order": "progressive", "attack": "apgd", "eps": "4/255", "steps": 20}


@guard
def analyze(
    analysis: Annotated[
        str,
        typer.Argument(help="replacement, cka, kernels, response, attention, insensitivity or perturbations."),
    ],
    models: Annotated[list[str], typer.Argument(help="[bold]\\[LABEL=]MODEL[/]: the original, then its twins.")],
    data: Annotated[str, typer.Option(help="The data set whose pictures are shown.")] = "objects",
    n: Annotated[int, typer.Option(help="Number of pictures.")] = 1000,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    option: Annotated[
        list[str] | None, typer.Option(help="What else the analysis takes: NAME=VALUE, repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the plots and their numbers; default: ANALYSIS.")] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Look into models: layer by layer, in frequencies, and at their attention; PNG, SVG and the numbers as JSON.

    \b
    replacement     the original with more and more of its twin's weights, clean, by transfer and white-box
                    (order=progressive, single or reverse; attack=apgd eps=4/255 steps=20)
    cka             how alike all blocks are to all others (tokens=all, class or mean)
    kernels         spectrum of the patch embedding, twin minus original (scale=relative or raw)
    response        gain of the patch embedding by frequency
    attention       what the first block looks at (block=0 query=mean or class pictures=5)
    insensitivity   how little attention hangs on the image, by block and head
    perturbations   in which frequencies adversarial perturbations lie (attack=apgd eps=4/255 steps=20 bands=16)

    \b
    [bold]Examples:[/]
      radapt analyze cka micro/clip micro/fare --data objects --n 1000 --out cka
      radapt analyze replacement micro/clip FARE=micro/fare TeCoA=micro/tecoa --data shapes --n 50
      radapt analyze attention micro/clip micro/fare --option query=class
    """
    from radapt.report import write_plots

    options = options_of(option or [])
    if analysis == "replacement":
        options = _filled(options)
    elif analysis in ANALYSES:
        check_analysis(analysis, options)
    else:
        raise SettingsError(f"unknown analysis {analysis!r}{nearest(analysis, ['replacement', *ANALYSES])}")
    named: dict[str, VLM] = {}
    loaded: dict[str, VLM] = {}
    for text in models:
        label, model, adapter = candidate_parts(text, dtype=dtype, device=device, loaded=loaded)
        if adapter is not None:
            raise SettingsError(f"an analysis looks at models without an adapter, got {text!r}")
        if label in named:
            raise SettingsError(f"models must have different labels, got {label!r} twice; write LABEL=MODEL")
        named[label] = model
    sets = load_sets(data, split=split, n=n, models=list(named.values()))
    if len(sets) != 1:
        raise SettingsError(f"an analysis shows the pictures of one data set, got {data!r}")
    pictures = sets[0]
    folder = out or Path(analysis)
    if analysis == "replacement":
        plots = _replacement(named, pictures, folder, options, quiet=quiet)
    else:
        plots = analyses(analysis, named, pictures, options, quiet=quiet)
    for path in write_plots(plots, folder):
        console.print(f"wrote {path}", highlight=False)


def _filled(options: dict[str, object]) -> dict[str, object]:
    for key in options:
        if key not in _REPLACEMENT:
            raise SettingsError(f"replacement has no option {key!r}{nearest(key, _REPLACEMENT)}")
    return {**_REPLACEMENT, **options}


def _replacement(
    models: dict[str, VLM], data: Dataset, folder: Path, options: dict[str, Any], *, quiet: bool
) -> list[Plot]:
    """Evaluate every stage into a results file, from which an interrupted run continues, and draw its curves."""
    from radapt.evaluate import Candidate, Threat, evaluate
    from radapt.results import Results

    (name, base), *twins = models.items()
    how = Replacement.of("replacement", {"twins": {label: label for label, _ in twins}, "order": options["order"]})
    lines, places, ticks = replacements(name, base, how, models.__getitem__)
    ball = {"attack": options["attack"], "eps": fraction(str(options["eps"])), "options": {"steps": options["steps"]}}
    threats = [Threat(source=source, **ball) for source in ("undefended", "self")]
    with Results(folder / "results.sqlite") as results:
        figures = evaluate(
            [Candidate(method=name, model=base), *lines],
            datasets=[data],
            threats=threats,
            results=results,
            undefended=base,
            sanity=False,  # every stage is one of many points; a model that counts is evaluated by itself
            quiet=quiet,
        )
    title = f"{how.order.capitalize()} replacement"
    return list(curves_of(figures, places, title=title, ticks=ticks, x_label="stages of the twin"))

"""``radapt analyze``: where robustness lives in a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from radapt.io import options_of

from ._shared import DataRoot, Device, Dtype, Quiet, SplitName, folder, tell_written

if TYPE_CHECKING:
    from radapt.types import Split

__all__ = ["analyze"]


def analyze(
    analysis: Annotated[
        str,
        typer.Argument(help="replacement, cka, kernels, response, attention, attention-sensitivity or perturbations."),
    ],
    models: Annotated[list[str], typer.Argument(help="[bold]\\[LABEL=]MODEL[/]: the original, then its twins.")],
    data: Annotated[str, typer.Option(help="The dataset whose images are shown.")] = "objects",
    n: Annotated[int, typer.Option(help="Number of images.")] = 1000,
    split: SplitName = "test",
    data_root: DataRoot = None,
    option: Annotated[
        list[str] | None, typer.Option(help="What else the analysis takes: NAME=VALUE, repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="FOLDER", help="Folder of the plots and their numbers; default: ANALYSIS."),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Analyse models: layer by layer, in frequencies, and by their attention; PNG, SVG and the numbers as JSON.

    \b
    replacement            the original with more and more of its twin's weights, clean, by transfer and white-box
                           (order=progressive, single, reverse or interpolation; attack=apgd eps=4/255 steps=20)
    cka                    how alike all blocks are to all others (tokens=all, class or mean)
    kernels                spectrum of the patch embedding, twin minus original (scale=relative or raw)
    response               gain of the patch embedding by frequency
    attention              what the first block looks at (block=0 query=mean or class images=5)
    attention-sensitivity  how much attention depends on the image, by block and head
    perturbations          in which frequencies adversarial perturbations lie (attack=apgd eps=4/255 steps=20 bands=16)

    \b
    [bold]Examples:[/]
      radapt analyze cka micro/clip micro/fare --data objects --n 1000 --out cka
      radapt analyze replacement micro/clip FARE=micro/fare TeCoA=micro/tecoa --data shapes --n 50
      radapt analyze attention micro/clip micro/fare --option query=class
    """
    from radapt.analysis import analyze as run
    from radapt.reports import write_plots

    place = out or folder(analysis)
    plots = run(
        analysis,
        models,
        data=data,
        n=n,
        split=cast("Split", split),
        options=options_of(option or []),
        folder=place,
        device=device,
        dtype=dtype,
        quiet=quiet,
    )
    tell_written(*write_plots(plots, place))

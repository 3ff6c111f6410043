"""``radapt ui``: the playground in the browser."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from radapt.text import one_line

from ._shared import Device, Dtype, console, named

__all__ = ["ui"]


def ui(
    model: Annotated[
        list[str] | None,
        typer.Option(
            parser=named, metavar="NAME", help="A model that is offered, repeatable; default: the micro ones."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            parser=named, metavar="FOLDER", help="An adapter that is offered beside those that ship, repeatable."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address that it listens on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Its port; default: the first one from 7860 that is free.")] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Try a model with and without its defence on one picture, and attack it live, in the browser.

    Choose a picture or upload one, type class names or a question, move the sliders of the defence or take an adapter,
    and attack the model step by step. It runs until it is interrupted (Ctrl-C).

    \b
    [bold]Examples:[/]
      radapt ui
      radapt ui --model micro/clip --adapter my-adapter --port 8000
    """
    from radapt.ui import MODELS, launch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        playground = launch(model or MODELS, adapter=adapter or (), host=host, port=port, device=device, dtype=dtype)
    for each in told:
        if issubclass(each.category, UserWarning):
            console.print(f"warning: {one_line(each.message)}", soft_wrap=True)
    console.print(f"open {playground.url} in a browser; Ctrl-C ends it", soft_wrap=True)
    playground.wait()

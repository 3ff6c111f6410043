"""Results as HTML: bars, outcomes and pictures. All texts go through a template that escapes them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from radapt.analysis import attention_maps, perturbation_spectrum
from radapt.models import VLM
from radapt.reports.heat import over
from radapt.text import visible
from radapt.types import Pixels

from ._answers import Answer
from ._live import Step

__all__ = ["Row", "attention", "bars", "image_of", "message", "outcome", "picture", "traces"]

_BANDS = 14
_Said = tuple[str, bool]


@dataclass
class Row:
    """One attack of the outcome: whose gradients it has, and how far it is.

    Args:
        title: whose gradients the attack has.
        state: in words, while there is nothing else.
        step: where the attack is, with the loss there and what the attacked model says.
        said: what the models without and with the defence say of what it made, and whether that is right.
        pixels: what it made.
    """

    title: str
    state: str = "waits"
    step: Step | None = None
    now: str = ""
    said: tuple[_Said, _Said] | None = None
    pixels: Tensor | None = None

    @property
    def loss(self) -> float:
        """The loss of the step."""
        return float(self.step.score.loss[0]) if self.step is not None else float("nan")


@cache
def _template() -> Any:
    text = Path(__file__).with_name("panels.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text).module


def message(text: str, kind: str = "error") -> str:
    """A sentence on what went wrong, or on what to know; nothing for an empty one."""
    return str(_template().message(visible(text), kind))


def bars(panels: Sequence[tuple[str, str, Sequence[Answer]]], right: str) -> str:
    """What models say: a title, a note and the answers of each, side by side."""
    texts = [
        _template().bars(title, note, [Answer(visible(each.text), each.share) for each in answers], visible(right))
        for title, note, answers in panels
    ]
    return f'<div class="ra-pair">{"".join(map(str, texts))}</div>'


def outcome(about: str, right: str, clean: tuple[_Said, _Said], rows: Sequence[Row], verdict: str, kind: str) -> str:
    """What the attacks did so far."""
    return str(_template().outcome(visible(about), visible(right), clean, rows, verdict, kind))


def image_of(pixels: Tensor) -> PIL.Image.Image:
    """An image of 8 bits per channel from pixels in [0, 1], 3 x height x width."""
    values = (pixels.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(values)


def _uri(image: PIL.Image.Image) -> str:
    """An image as an address that holds it."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _figure(image: PIL.Image.Image, text: str, alt: str = "") -> dict[str, str]:
    return {"uri": _uri(image), "text": visible(text), "alt": visible(alt or text)}


def picture(pixels: Tensor, text: str) -> str:
    """The chosen image, as the model gets it."""
    return str(_template().figures("The picture, as the model gets it", [_figure(image_of(pixels), text)], None))


def traces(clean: Pixels, eps: float, rows: Sequence[Row], *, final: bool) -> str:
    """What attacks have made so far: the image, the perturbation, magnified, and, at the end, its spectrum."""
    parts = []
    for row in rows:
        if row.pixels is None:
            continue
        change = row.pixels.detach().cpu() - clean.cpu()
        figures = [
            _figure(image_of(clean[0]), "before"),
            _figure(image_of(row.pixels[0]), "after the attack"),
            _figure(
                image_of(0.5 + change[0] / (2 * eps)),
                f"perturbation, magnified {1 / (2 * eps):.0f} times; grey means unchanged",
                "the perturbation, magnified",
            ),
        ]
        spectrum = _spectrum(clean, row.pixels) if final and change.any() else None
        parts.append(str(_template().figures(f"Made on {row.title}", figures, spectrum)))
    return "".join(parts)


def _spectrum(clean: Pixels, adversarial: Pixels) -> dict[str, Any]:
    [line] = perturbation_spectrum([clean.cpu()], [adversarial.detach().cpu()], bands=_BANDS).lines
    most, width = max(line.y), 120 / _BANDS
    drawn = [
        {"x": at * width + 0.4, "width": width - 0.8, "height": 98 * share / most} for at, share in enumerate(line.y)
    ]
    low = sum(line.y[: _BANDS // 2])
    return {"bars": drawn, "highest": line.x[-1] + line.x[0], "text": f"{low:.0f} % in the lower half"}


def attention(models: Sequence[tuple[str, VLM]], images: Sequence[tuple[str, Tensor]]) -> str:
    """Where the first block looks, in every image and model.

    Args:
        models: with their titles; nobody else may run them meanwhile.
        images: with their titles, 3 x height x width each.

    Raises:
        ModelError: a model gives no attention maps.
    """
    pixels = torch.stack([image.cpu() for _, image in images])
    parts = []
    for title, model in models:
        plot = attention_maps(model, pixels)
        figures = [
            _figure(over(image_of(image), np.asarray(each)), name, f"attention of the first block, {title}, {name}")
            for (name, image), each in zip(images, plot.images[1], strict=True)
        ]
        parts.append(str(_template().figures(title, figures, None)))
    return f'<div class="ra-pair">{"".join(parts)}</div>'

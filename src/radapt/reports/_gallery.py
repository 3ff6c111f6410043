"""Example images of a results file: what the model was right about, before and after an attack."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from radapt.errors import ResultsError
from radapt.results import WORST_CASE, Example, Result, Results
from radapt.results.labels import attack_text, ball_text, places_of, title_of

from .heat import over
from .table import plain

__all__ = ["BUDGET", "Gallery", "Shown", "gallery_of", "perturbation", "spectrum"]

BUDGET = 3_000_000
"""Characters that all images of a page may take."""
_LARGE = 128
"""Images with a longer side are shown as JPEG."""
_Pixels = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An example, with its images as ``data:`` addresses.

    Args:
        dataset, method, threat: of the result that it belongs to.
        truth, before, after: the true answer, and the model's before and after the attack.
        fooled: whether the two are not the same.
        position: its place in the split.
        clean, adversarial, difference, spectrum: the images, the perturbation and its power spectrum.
        looks: where the first block looks in either image; empty where that is not known.
    """

    dataset: str
    method: str
    threat: str
    truth: str
    before: str
    after: str
    fooled: bool
    position: int
    clean: str
    adversarial: str
    difference: str
    spectrum: str
    looks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Characters of all its images."""
        return sum(map(len, (self.clean, self.adversarial, self.difference, self.spectrum, *self.looks)))


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The examples of a page.

    Args:
        shown: those that are shown.
        wrong: how many are not, because the model was wrong about them before any attack.
        left: how many are not, because the page would become too large.
    """

    shown: tuple[Shown, ...] = ()
    wrong: int = 0
    left: int = 0

    @property
    def blind(self) -> int:
        """How many are shown without attention."""
        return sum(not each.looks for each in self.shown)


def gallery_of(store: Results, results: Sequence[Result], limit: int, *, budget: int = BUDGET) -> Gallery:
    """Examples in turn from every dataset, and there from every setting, until the page holds enough.

    Args:
        store: an open results file.
        results: what it holds.
        limit: at most so many examples.
        budget: characters that their images may take.

    Raises:
        ResultsError: an example is not an image.
    """
    measured = [result for result in results if result.main]
    places = places_of([result.setting for result in measured])
    titles = {id(result): plain(title_of(place, places)) for result, place in zip(measured, places, strict=True)}
    right = _Right(store, measured)
    queues: dict[str, list[list[tuple[Result, Example]]]] = {}
    wrong = 0
    for result in measured:
        if result.setting.source and result.setting.attack != WORST_CASE:
            examples = store.examples(result.setting, shown=True)
            kept = [(result, example) for example in examples if right(result, example)]
            wrong += len(examples) - len(kept)
            queues.setdefault(titles[id(result)], []).append(kept)
    turns = list(_in_turn([list(_in_turn(of_dataset)) for of_dataset in queues.values()]))
    shown: list[tuple[int, Shown]] = []
    spent = 0
    order = {id(result): at for at, result in enumerate(measured)}
    for result, example in turns[:limit]:
        made = _shown(titles[id(result)], result, example)
        spent += made.size
        if shown and spent > budget:
            break
        shown.append((order[id(result)], made))
    shown.sort(key=lambda pair: pair[0])
    return Gallery(shown=tuple(each for _, each in shown), wrong=wrong, left=len(turns) - len(shown))


def _in_turn(queues: Sequence[Sequence[tuple[Result, Example]]]) -> Iterator[tuple[Result, Example]]:
    """The first of every queue, then the second of each, and so on."""
    for at in range(max(map(len, queues), default=0)):
        yield from (queue[at] for queue in queues if at < len(queue))


class _Right:
    """Whether a model was right about an image before any attack: by its clean result, or by its answer where the file
    holds none."""

    def __init__(self, store: Results, results: Sequence[Result]) -> None:
        self._store = store
        self._clean = {self._key(result): result for result in results if result.kind == "clean"}
        self._scores: dict[tuple[object, ...], dict[int, float]] = {}

    @staticmethod
    def _key(result: Result) -> tuple[object, ...]:
        return *result.setting.place, *result.setting.state

    def __call__(self, result: Result, example: Example) -> bool:
        key = self._key(result)
        if key not in self._scores:
            clean = self._clean.get(key)
            samples = self._store.samples(clean.setting) if clean else []
            self._scores[key] = {sample.position: sample.score for sample in samples}
        score = self._scores[key].get(example.position)
        return example.before == example.truth if score is None else score > 0


def _shown(dataset: str, result: Result, example: Example) -> Shown:
    setting = result.setting
    kind = "white-box" if result.kind == "white-box" else f"transfer from {setting.source}"
    before, after = _pixels(example.clean), _pixels(example.adversarial)
    if before.shape != after.shape:
        raise ResultsError(f"an example has images of different sizes: {before.shape[:2]} and {after.shape[:2]}")
    return Shown(
        dataset=dataset,
        method=plain(setting.method),
        threat=plain(f"{attack_text(setting)}, {kind}, {ball_text(setting.norm, setting.eps)}"),
        truth=plain(example.truth),
        before=plain(example.before),
        after=plain(example.after),
        fooled=example.after != example.before,
        position=example.position,
        clean=_address(example.clean),
        adversarial=_address(example.adversarial),
        difference=_address(perturbation(example.clean, example.adversarial)),
        spectrum=_address(spectrum(example.clean, example.adversarial)),
        looks=_looks(example),
    )


def _looks(example: Example) -> tuple[str, ...]:
    pairs = (example.clean, example.attention_before), (example.adversarial, example.attention_after)
    if not all(weights for _, weights in pairs):
        return ()
    return tuple(_address(_look(image, weights)) for image, weights in pairs)


def _look(image: bytes, weights: bytes) -> bytes:
    """Where a model looks in an image, as PNG; smaller than the image where that is large."""
    picture = _opened(image)
    picture.thumbnail((_LARGE, _LARGE))
    stream = io.BytesIO()
    over(picture, np.asarray(_opened(weights).convert("L"), np.float64) / 255).save(stream, "PNG")
    return stream.getvalue()


def perturbation(clean: bytes, adversarial: bytes, *, gain: float = 10.0) -> bytes:
    """The perturbation as a PNG image, ``0.5 + gain (adversarial - clean)``, clipped to [0, 1].

    Args:
        clean, adversarial: PNG bytes of two images of one size.
        gain: how much the difference is enlarged.

    Raises:
        ResultsError: not PNG, or of different sizes.
    """
    before, after = _pixels(clean), _pixels(adversarial)
    if before.shape != after.shape:
        raise ResultsError(f"an example has images of different sizes: {before.shape[:2]} and {after.shape[:2]}")
    return _png(np.clip(0.5 + gain * (after - before), 0, 1))


def spectrum(clean: bytes, adversarial: bytes, *, side: int = 96) -> bytes:
    """The power spectrum of the perturbation as a grey PNG image: low frequencies in the middle, 60 dB from black to
    white, the strongest white; colours are averaged.

    Args:
        clean, adversarial: PNG bytes of two images of one size.
        side: larger spectra are averaged over squares until their longer side is at most this.

    Raises:
        ResultsError: not PNG.
    """
    change = _pixels(adversarial) - _pixels(clean)
    power = np.fft.fftshift(np.abs(np.fft.fft2(change, axes=(0, 1))) ** 2, axes=(0, 1)).mean(axis=2)
    step = -(-max(power.shape) // side)
    height, width = (size // step for size in power.shape)
    power = power[: height * step, : width * step].reshape(height, step, width, step).mean(axis=(1, 3))
    highest = power.max()
    if not highest:
        return _png(np.zeros_like(power))
    decibels = 10 * np.log10(np.maximum(power / highest, 1e-6))
    return _png(1 + decibels / 60)


def _pixels(content: bytes) -> _Pixels:
    return np.asarray(_opened(content), np.float64) / 255


def _opened(content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ResultsError(f"an example in the results file is not a PNG image: {error}") from error


def _png(values: _Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * values).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _address(png: bytes) -> str:
    """An image as a ``data:`` address; a large one as JPEG, which is enough to look at."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if max(image.size) > _LARGE:
            stream = io.BytesIO()
            image.convert("RGB").save(stream, "JPEG", quality=90, subsampling=0)
            return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return "data:image/png;base64," + base64.b64encode(png).decode()

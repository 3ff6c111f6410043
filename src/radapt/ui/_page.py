"""The page: its controls, and which action each of them starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from radapt.errors import ModelError, RadaptError
from radapt.models import Generative

from ._actions import SOURCES, Actions, Choice
from ._answers import Words
from ._live import ATTACKS, RADII
from ._pictures import CLASS_SETS, MOST_BYTES, QUESTION_SETS, Picture, built_in, example_set, uploaded
from ._shelf import SLIDERS
from ._views import image_of, message, picture

__all__ = ["build"]

_log = logging.getLogger("radapt.ui")
_LIVE: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}


def _sentence(error: Exception) -> str:
    """What went wrong, in one sentence, as HTML."""
    if isinstance(error, RadaptError):
        return message(str(error))
    _log.exception("unexpected error")
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return message("there is not enough memory for this; take a smaller model")
    return message(f"this went wrong on the server ({type(error).__name__}), and its log says more")


def _told(action: Callable[..., tuple[Any, ...]], outputs: int) -> Callable[..., tuple[Any, ...]]:
    """An action whose errors become a sentence: the last output."""

    @wraps(action)  # Gradio looks at the signature
    def run(*given: Any) -> tuple[Any, ...]:
        try:
            return (*action(*given), "")
        except Exception as error:
            return (*[gr.skip()] * outputs, _sentence(error))

    return run


class _Page:
    """The page's controls and events.

    Args:
        actions: what they do.
        folder: where adapters are packed to be downloaded.
        page: what they are on.
    """

    def __init__(self, actions: Actions, folder: Path, page: gr.Blocks) -> None:
        self.actions, self.shelf, self.folder = actions, actions.shelf, folder
        first = next(iter(self.shelf.models))
        asks = self._asks(first)
        self.picture = gr.State(None, time_to_live=3600)
        gr.HTML(
            "<h1>R-Adapt playground</h1><p>One picture, one model, with and without its defence. "
            "Nothing leaves this machine.</p>"
        )
        self.status = gr.HTML(elem_id="ra-status")
        with gr.Row():
            with gr.Column(min_width=300):
                self._picture_controls(asks)
            with gr.Column(min_width=300):
                self._word_controls(first, asks)
            with gr.Column(min_width=300):
                self._defence_controls(first)
        self.answers = gr.HTML(elem_id="ra-answers")
        gr.HTML("<h2>Attack it</h2>")
        self._attack_controls()
        gr.HTML("<h2>Where the first block looks</h2>")
        self.attention = gr.HTML(elem_id="ra-attention")
        self._events(page)

    def _asks(self, model: str) -> bool:
        return isinstance(self.shelf.model(model), Generative)

    def _picture_controls(self, asks: bool) -> None:
        sets = QUESTION_SETS if asks else CLASS_SETS
        gr.HTML("<h2>Picture</h2>")
        with gr.Tabs():
            with gr.Tab("Built-in"):
                self.set = gr.Dropdown(sets, value=sets[0], label="Set", elem_id="ra-set")
                self.gallery = gr.Gallery(
                    label="Pictures of the set", columns=6, height=190, allow_preview=False, format="png",
                    object_fit="contain", interactive=False, buttons=[], elem_id="ra-gallery",
                )  # fmt: skip
            with gr.Tab("Your own"):
                self.upload = gr.File(
                    label=f"An image file of at most {MOST_BYTES // 2**20} MiB", type="filepath", elem_id="ra-upload"
                )
        self.shown = gr.HTML(elem_id="ra-picture")

    def _word_controls(self, first: str, asks: bool) -> None:
        gr.HTML("<h2>Model and words</h2>")
        self.model = gr.Dropdown(list(self.shelf.models), value=first, label="Model", elem_id="ra-model")
        self.classes = gr.Textbox(
            label="Class names",
            info="separated by commas",
            lines=3,
            max_lines=8,
            visible=not asks,
            elem_id="ra-classes",
        )
        self.templates = gr.Textbox(
            label="Prompt templates", info="one a line; {c} or {a c} is the class name", lines=3, max_lines=6,
            visible=not asks, elem_id="ra-templates",
        )  # fmt: skip
        self.question = gr.Dropdown(
            [], label="Question", info="choose one, or type your own", allow_custom_value=True, visible=asks,
            elem_id="ra-question",
        )  # fmt: skip
        self.right = gr.Textbox(
            label="Right answer", info="empty: what the model says without the defence", elem_id="ra-right"
        )

    def _defence_controls(self, first: str) -> None:
        gr.HTML("<h2>Defence</h2>")
        self.defence = gr.Dropdown(self.shelf.defences(first), value=SLIDERS, label="Adapter", elem_id="ra-defence")
        self.d0 = gr.Slider(
            0, 112, value=40, step=1, label="Cut-off D0", info="cycles per image of 224 pixels; 0: no filter",
            elem_id="ra-d0",
        )  # fmt: skip
        self.alpha = gr.Slider(
            0, 2, value=0.4, step=0.05, label="Weight of the anchor, alpha", info="0: the filter alone",
            elem_id="ra-alpha",
        )  # fmt: skip
        self.save = gr.Button("Save the adapter", elem_id="ra-save")
        self.saved = gr.File(label="The adapter, packed", visible=False, interactive=False, elem_id="ra-saved")

    def _attack_controls(self) -> None:
        with gr.Row():
            self.attack = gr.Dropdown(list(ATTACKS), value="pgd", label="Attack", min_width=120, elem_id="ra-attack")
            self.eps = gr.Dropdown(
                list(RADII), value="4/255", label="Radius eps, maximum norm", min_width=120, elem_id="ra-eps"
            )
            self.source = gr.Radio(
                [(f"{name}: {text}", name) for name, text in SOURCES.items()], value="self",
                label="First, the attack sees (the other one follows)", min_width=300, scale=2, elem_id="ra-source",
            )  # fmt: skip
        with gr.Row():
            self.start = gr.Button("Start the attack", variant="primary", elem_id="ra-start")
            self.stop = gr.Button("Stop", elem_id="ra-stop")
        self.outcome = gr.HTML(elem_id="ra-outcome")
        self.traces = gr.HTML(elem_id="ra-traces")

    def _events(self, page: gr.Blocks) -> None:
        words = [self.classes, self.templates, self.question, self.right]
        choice = [self.picture, self.model, self.defence, self.d0, self.alpha, *words]
        chosen = [self.picture, self.shown, self.question, self.right, self.status]

        def predict(event: Any, **settings: Any) -> None:
            predicted = event(_told(self._predict, 1), choice, [self.answers, self.status], **{**_LIVE, **settings})
            predicted.then(self._look, choice, self.attention, api_visibility="private", show_progress="hidden")

        def set_chosen(event: Any, **settings: Any) -> Any:
            outputs = [self.gallery, self.classes, self.templates, *chosen]
            return event(_told(self._choose_set, 7), [self.model, self.set], outputs, **settings)

        private: dict[str, Any] = {"api_visibility": "private"}
        predict(set_chosen(page.load, show_progress="hidden", **private).then, **private)
        predict(set_chosen(self.set.input, api_name="choose_set").then, **private)
        predict(
            self.gallery.select(
                _told(self._pick, 4), [self.model, self.set, self.question], chosen, show_progress="hidden", **private
            ).then,
            **private,
        )
        predict(
            self.upload.upload(_told(self._upload, 4), [self.model, self.upload], chosen, api_name="upload").then,
            **private,
        )
        kind = [self.set, self.classes, self.templates, self.question, self.defence, self.d0, self.alpha, self.status]
        switched = self.model.input(
            _told(self._choose_model, 7), [self.model, self.set, self.defence], kind, api_name="choose_model"
        )
        predict(set_chosen(switched.then, **private).then, **private)
        sliders = [self.d0, self.alpha, self.status]
        predict(self.defence.input(_told(self._choose_defence, 2), self.defence, sliders, **private).then, **private)
        predict(self.d0.input, api_name="predict")
        for each in (self.alpha, self.templates, self.right):
            predict(each.input, **private)
        predict(
            self.classes.input(
                _told(self._new_classes, 1), [self.classes, self.right], [self.right, self.status], **_LIVE, **private
            ).then,
            **private,
        )
        predict(
            self.question.change(
                _told(self._new_question, 1), [self.picture, self.question], [self.right, self.status], **_LIVE,
                **private,
            ).then,
            **private,
        )  # fmt: skip
        self.start.click(
            self._attack, [*choice, self.attack, self.eps, self.source],
            [self.outcome, self.traces, self.attention, self.status],
            show_progress="hidden", concurrency_limit=4, trigger_mode="once", api_name="attack",
        )  # fmt: skip
        self.stop.click(self._stop, None, self.status, queue=False, show_progress="hidden", api_name="stop")
        self.save.click(_told(self._save, 1), choice, [self.saved, self.status], api_name="save")
        page.unload(self._left)

    def _predict(self, *given: Any) -> tuple[Any, ...]:
        return (self.actions.predict(_choice(given)),)

    def _look(self, *given: Any) -> str:
        try:
            return self.actions.look(_choice(given))
        except ModelError as error:
            return message(str(error), "note")
        except RadaptError:  # the sentence stands above already
            return ""

    def _choose_set(self, model: str, name: str) -> tuple[Any, ...]:
        data = example_set(name, self.shelf.model(model).image_size[0])
        # The gallery shows them larger than they are.
        shown = [
            (image_of(image).resize((96, 96), 0), f"{name}, picture {at + 1}")
            for at, image in enumerate(data.pixels(range(len(data))))
        ]
        classes, templates = (", ".join(data.classes), "\n".join(data.templates)) if data.classes else (gr.skip(),) * 2
        return (
            gr.Gallery(shown, selected_index=0),
            classes,
            templates,
            *self._show(model, built_in(self.shelf.models, name, 0)),
        )

    def _pick(self, model: str, name: str, question: str, event: gr.SelectData) -> tuple[Any, ...]:
        return self._show(model, built_in(self.shelf.models, name, int(event.index)), question)

    def _upload(self, model: str, file: str | None) -> tuple[Any, ...]:
        return (gr.skip(),) * 4 if file is None else self._show(model, uploaded(self.shelf.models, file))

    def _show(self, model: str, chosen: Picture, question: str = "") -> tuple[Any, ...]:
        """The picture, how it looks, and what is asked and right of it."""
        asked, right = gr.skip(), chosen.right
        if chosen.questions:
            first = question if question in chosen.questions else next(iter(chosen.questions))
            asked, right = gr.Dropdown(list(chosen.questions), value=first), chosen.questions[first]
        text = f"{chosen.title}; {chosen.note}" if chosen.note else chosen.title
        return chosen, picture(chosen.pixels[model], text), asked, right

    def _choose_model(self, model: str, name: str, defence: str) -> tuple[Any, ...]:
        asks, defences = self._asks(model), self.shelf.defences(model)
        sets = QUESTION_SETS if asks else CLASS_SETS
        kept = defence if defence in defences else SLIDERS
        return (
            gr.Dropdown(sets, value=name if name in sets else sets[0]),
            gr.Textbox(visible=not asks),
            gr.Textbox(visible=not asks),
            gr.Dropdown(visible=asks),
            gr.Dropdown(defences, value=kept),
            *self._choose_defence(kept),
        )

    def _choose_defence(self, defence: str) -> tuple[Any, ...]:
        return (gr.Slider(interactive=defence == SLIDERS), gr.Slider(interactive=defence == SLIDERS))

    def _new_classes(self, classes: str, right: str) -> tuple[Any, ...]:
        """The right answer, unless it is no class any more."""
        return (right if right in [name.strip() for name in classes.replace("\n", ",").split(",")] else "",)

    def _new_question(self, chosen: Picture | None, question: str) -> tuple[Any, ...]:
        return ("" if chosen is None else chosen.questions.get(question, chosen.right),)

    def _attack(self, request: gr.Request, *given: Any) -> Iterator[tuple[Any, ...]]:
        *choice, name, eps, source = given
        try:
            for html, made, seen in self.actions.attack(_choice(choice), name, eps, source, _user(request)):
                yield html, made, seen or gr.skip(), ""
        except Exception as error:
            yield "", "", gr.skip(), _sentence(error)

    def _stop(self, request: gr.Request) -> str:
        return message(self.actions.stop(_user(request)), "note")

    def _left(self, request: gr.Request) -> None:
        """Somebody has closed the page; their attack ends."""
        self.actions.stop(_user(request))

    def _save(self, *given: Any) -> tuple[Any, ...]:
        return (gr.File(str(self.actions.save(_choice(given), self.folder)), visible=True),)


def _choice(given: Any) -> Choice:
    picture, model, defence, d0, alpha, *words = given
    return Choice(picture, model, defence, d0, alpha, Words(*(each or "" for each in words)))


def _user(request: gr.Request) -> str:
    return str(request.session_hash or "")


def build(actions: Actions, folder: Path) -> gr.Blocks:
    """The page of some actions.

    Args:
        actions: what its controls do.
        folder: where adapters are packed to be downloaded.
    """
    page: gr.Blocks
    with gr.Blocks(title="R-Adapt playground", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        _Page(actions, folder, page)
    return page

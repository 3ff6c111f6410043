"""The page: its controls, and which action each of them starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from radapt.errors import ModelError, RadaptError
from radapt.models import Generative

from ._actions import Actions, Choice
from ._answers import Words
from ._controls import Controls
from ._live import ATTACKS, RADII, make_attack
from ._pictures import CLASS_SETS, FIRST, QUESTION_SETS, Picture, built_in, example_set, uploaded
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


class _Page:
    """What the controls of the page do.

    Args:
        gr: Gradio, which is imported when there is a page to be made.
        actions: what they do.
        folder: where adapters are packed to be downloaded.
        page: what they are on.
    """

    def __init__(self, gr: Any, actions: Actions, folder: Path, page: Any) -> None:
        self.gr, self.actions, self.shelf, self.folder = gr, actions, actions.shelf, folder
        first = next(iter(self.shelf.models))
        self.controls = Controls(
            gr, list(self.shelf.models), defences=self.shelf.defences(first), asks=self._asks(first)
        )
        self._events(page)

    def _asks(self, model: str) -> bool:
        return isinstance(self.shelf.model(model), Generative)

    def _events(self, page: Any) -> None:
        at = self.controls
        words = [at.classes, at.templates, at.question, at.right]
        choice = [at.picture, at.model, at.defence, at.d0, at.alpha, *words]
        chosen = [at.picture, at.shown, at.question, at.right, at.status]

        def predict(event: Any, *, keeps: bool = False, **settings: Any) -> None:
            action = self._told(self._predict, 1, keeps=keeps)
            predicted = event(action, choice, [at.answers, at.status], **{**_LIVE, **settings})
            predicted.then(self._look, choice, at.attention, api_visibility="private", show_progress="hidden")

        def after(step: Any) -> None:
            """Predict when a step is done; what that had to say stays."""
            predict(step.then, keeps=True, api_visibility="private")

        def set_chosen(event: Any, **settings: Any) -> Any:
            outputs = [at.gallery, at.classes, at.templates, *chosen]
            return event(self._told(self._choose_set, 7), [at.model, at.set], outputs, **settings)

        private: dict[str, Any] = {**_LIVE, "api_visibility": "private"}
        after(set_chosen(page.load, **private))
        after(set_chosen(at.set.input, **_LIVE, api_name="choose_set"))
        picked = self._told(self._pick, 4)
        after(at.gallery.select(picked, [at.model, at.set, at.question], chosen, **private))
        sent = self._told(self._upload, 4)
        after(at.upload.upload(sent, [at.model, at.upload], chosen, **_LIVE, api_name="upload"))
        kind = [at.set, at.defence, at.d0, at.alpha, at.gallery, at.classes, at.templates, *chosen]
        switched = self._told(self._choose_model, 11)
        given = [at.model, at.set, at.defence, at.picture]
        after(at.model.input(switched, given, kind, **_LIVE, api_name="choose_model"))
        sliders = [at.d0, at.alpha, at.status]
        after(at.defence.input(self._told(self._choose_defence, 2), at.defence, sliders, **private))
        predict(at.d0.input, api_name="predict")
        predict(at.alpha.input, **private)
        for each in (at.templates, at.right):  # to what is pasted, their `input` is deaf
            predict(each.change, **private)
        for typed, check, given in (
            (at.classes, self._new_classes, at.right),
            (at.question, self._new_question, at.picture),
        ):
            checked = typed.change(self._told(check, 1), [typed, given], [at.right, at.status], **private)
            after(checked)
        at.start.click(
            self._attack, [*choice, at.attack, at.eps, at.source],
            [at.outcome, at.traces, at.attention, at.status],
            show_progress="hidden", concurrency_limit=4, trigger_mode="once", api_name="attack",
        )  # fmt: skip
        at.stop.click(self._stop, None, at.status, queue=False, show_progress="hidden", api_name="stop")
        at.save.click(self._told(self._save, 1), choice, [at.saved, at.status], **_LIVE, api_name="save")
        page.unload(self._left)

    def _told(
        self, action: Callable[..., tuple[Any, ...]], outputs: int, *, keeps: bool = False
    ) -> Callable[..., tuple[Any, ...]]:
        """An action whose errors become a sentence, the last output; without one, an older sentence goes or is kept."""

        @wraps(action)  # Gradio looks at the annotations
        def run(*given: Any) -> tuple[Any, ...]:
            try:
                return (*action(*given), self.gr.skip() if keeps else "")
            except Exception as error:
                return (*[self.gr.skip()] * outputs, _sentence(error))

        return run

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
        shown = [image_of(image).resize((96, 96), 0) for image in data.pixels(range(len(data)))]
        classes, templates = self.gr.skip(), self.gr.skip()
        if data.classes:
            classes = self.gr.update(value=", ".join(data.classes))
            templates = self.gr.update(value="\n".join(data.templates))
        first = built_in(self.shelf.models, name, FIRST)
        return self.gr.update(value=shown, selected_index=FIRST), classes, templates, *self._show(model, first)

    def _pick(self, model: str, name: str, question: str, event: Any) -> tuple[Any, ...]:
        return self._show(model, built_in(self.shelf.models, name, int(event.index)), question)

    def _upload(self, model: str, file: str | None) -> tuple[Any, ...]:
        return (self.gr.skip(),) * 4 if file is None else self._show(model, uploaded(self.shelf.models, file))

    def _show(self, model: str, chosen: Picture, question: str = "") -> tuple[Any, ...]:
        """The picture, how it looks, and what is asked and right of it."""
        asked, right = self.gr.skip(), chosen.right
        if chosen.questions:
            first = question if question in chosen.questions else next(iter(chosen.questions))
            asked = self.gr.update(choices=[(each, each) for each in chosen.questions], value=first)
            right = chosen.questions[first]
        text = f"{chosen.title}; {chosen.note}" if chosen.note else chosen.title
        return chosen, picture(chosen.pixels[model], text), asked, right

    def _choose_model(self, model: str, name: str, defence: str, chosen: Picture | None) -> tuple[Any, ...]:
        """What another model offers; the picture stays, and so do the words where it is of the same kind."""
        asks, defences = self._asks(model), self.shelf.defences(model)
        sets = QUESTION_SETS if asks else CLASS_SETS
        kept = defence if defence in defences else SLIDERS
        skip, same = self.gr.skip(), name in sets
        name = name if same else sets[0]
        gallery, classes, templates, *shown = (skip,) * 7 if same else self._choose_set(model, name)
        if chosen is not None and (same or chosen.own):
            shown = [*self._show(model, chosen)[:2], shown[2], skip if same else ""]
        picture, html, question, right = shown
        return (
            self.gr.update(choices=[(each, each) for each in sets], value=name),
            self.gr.update(choices=[(each, each) for each in defences], value=kept),
            *self._choose_defence(kept),
            gallery,
            *({**each, "visible": not asks} for each in (classes, templates)),
            *(picture, html, {**question, "visible": asks}, right),
        )

    def _choose_defence(self, defence: str) -> tuple[Any, ...]:
        return (self.gr.update(interactive=defence == SLIDERS),) * 2

    def _new_classes(self, classes: str, right: str) -> tuple[Any, ...]:
        """The right answer, unless it is no class any more."""
        return (right if right in [name.strip() for name in classes.replace("\n", ",").split(",")] else "",)

    def _new_question(self, question: str, chosen: Picture | None) -> tuple[Any, ...]:
        return ("" if chosen is None else chosen.questions.get(question, chosen.right),)

    def _attack(self, request: Any, *given: Any) -> Iterator[tuple[Any, ...]]:
        *choice, name, eps, source = given
        try:
            for html, made, seen in self.actions.attack(_choice(choice), name, eps, source, _user(request)):
                yield html, made, seen or self.gr.skip(), ""
        except Exception as error:
            yield "", "", self.gr.skip(), _sentence(error)

    def _stop(self, request: Any) -> str:
        return message(self.actions.stop(_user(request)), "note")

    def _left(self, request: Any) -> None:
        """Somebody has closed the page; their attack ends."""
        self.actions.stop(_user(request))

    def _save(self, *given: Any) -> tuple[Any, ...]:
        return (self.gr.update(value=str(self.actions.save(_choice(given), self.folder)), visible=True),)


def _choice(given: Any) -> Choice:
    picture, model, defence, d0, alpha, *words = given
    return Choice(picture, model, defence, d0, alpha, Words(*(each or "" for each in words)))


def _user(request: Any) -> str:
    return str(request.session_hash or "")


def build(actions: Actions, folder: Path) -> Any:
    """The page of some actions.

    Args:
        actions: what its controls do.
        folder: where adapters are packed to be downloaded.
    """
    import gradio as gr

    # By the annotations, Gradio knows what it is to hand over beside the values of controls.
    for action, argument, kind in (
        (_Page._pick, "event", gr.SelectData),
        (_Page._attack, "request", gr.Request),
        (_Page._stop, "request", gr.Request),
        (_Page._left, "request", gr.Request),
    ):
        action.__annotations__[argument] = kind
    for name in ATTACKS:  # imported now, so that nobody waits for it at the first step
        make_attack(name, RADII[0])
    with gr.Blocks(title="R-Adapt playground", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        _Page(gr, actions, folder, page)
    return page

"""The controls of the page, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._actions import SOURCES
from ._live import ATTACKS, RADII
from ._pictures import CLASS_SETS, MOST_BYTES, QUESTION_SETS
from ._shelf import SLIDERS

__all__ = ["Controls"]


class Controls:
    """The controls, by name; they are made within the ``with`` block of a page.

    Args:
        gr: Gradio, which is imported when there is a page to be made.
        models: names of the models; the first one is chosen.
        defences: names of the defences of that.
        asks: whether it answers questions.
    """

    def __init__(self, gr: Any, models: Sequence[str], *, defences: Sequence[str], asks: bool) -> None:
        self.gr = gr
        self.picture = gr.State(None, time_to_live=3600)
        gr.HTML(
            "<h1>R-Adapt playground</h1><p>One picture, one model, with and without its defence. "
            "Nothing leaves this machine.</p>"
        )
        self.status = gr.HTML(elem_id="ra-status")
        with gr.Row():
            with gr.Column(min_width=280):
                self._picture_controls(asks)
            with gr.Column(min_width=280):
                self._word_controls(models, asks)
            with gr.Column(min_width=280):
                self._defence_controls(defences)
        self.answers = gr.HTML(elem_id="ra-answers")
        gr.HTML("<h2>Attack it</h2>")
        self._attack_controls()
        gr.HTML("<h2>Where the first block looks</h2>")
        self.attention = gr.HTML(elem_id="ra-attention")

    def _picture_controls(self, asks: bool) -> None:
        sets = QUESTION_SETS if asks else CLASS_SETS
        self.gr.HTML("<h2>Picture</h2>")
        with self.gr.Tabs():
            with self.gr.Tab("Built-in"):
                self.set = self.gr.Dropdown(sets, value=sets[0], label="Set", elem_id="ra-set")
                self.gallery = self.gr.Gallery(
                    label="Pictures of the set", columns=4, height="auto", allow_preview=False, format="png",
                    object_fit="contain", interactive=False, buttons=[], elem_id="ra-gallery",
                )  # fmt: skip
            with self.gr.Tab("Your own"):
                self.upload = self.gr.File(
                    label=f"An image file of at most {MOST_BYTES // 2**20} MiB", type="filepath", elem_id="ra-upload"
                )
        self.shown = self.gr.HTML(elem_id="ra-picture")

    def _word_controls(self, models: Sequence[str], asks: bool) -> None:
        self.gr.HTML("<h2>Model and words</h2>")
        self.model = self.gr.Dropdown(list(models), value=models[0], label="Model", elem_id="ra-model")
        self.classes = self.gr.Textbox(
            label="Class names",
            info="separated by commas",
            lines=3,
            max_lines=8,
            visible=not asks,
            elem_id="ra-classes",
        )
        self.templates = self.gr.Textbox(
            label="Prompt templates", info="one a line; {c} or {a c} is the class name", lines=3, max_lines=6,
            visible=not asks, elem_id="ra-templates",
        )  # fmt: skip
        self.question = self.gr.Dropdown(
            [], label="Question", info="choose one, or type your own", allow_custom_value=True, visible=asks,
            elem_id="ra-question",
        )  # fmt: skip
        self.right = self.gr.Textbox(
            label="Right answer", info="leave it empty for what the model says without the defence", elem_id="ra-right"
        )

    def _defence_controls(self, defences: Sequence[str]) -> None:
        self.gr.HTML("<h2>Defence</h2>")
        self.defence = self.gr.Dropdown(list(defences), value=SLIDERS, label="Adapter", elem_id="ra-defence")
        self.d0 = self.gr.Slider(
            0, 112, value=40, step=1, label="Cut-off D0", info="cycles per image of 224 pixels; 0: no filter",
            elem_id="ra-d0",
        )  # fmt: skip
        self.alpha = self.gr.Slider(
            0, 2, value=0.4, step=0.05, label="Weight of the anchor, alpha", info="0: the filter alone",
            elem_id="ra-alpha",
        )  # fmt: skip
        self.save = self.gr.Button("Save the adapter", elem_id="ra-save")
        self.saved = self.gr.File(label="The adapter, packed", visible=False, interactive=False, elem_id="ra-saved")

    def _attack_controls(self) -> None:
        gr = self.gr
        with gr.Row():
            self.attack = gr.Dropdown(list(ATTACKS), value="pgd", label="Attack", min_width=160, elem_id="ra-attack")
            self.eps = gr.Dropdown(
                list(RADII), value="4/255", label="Radius eps, maximum norm", min_width=160, elem_id="ra-eps"
            )
        self.source = gr.Radio(
            [(f"{name}: {text}", name) for name, text in SOURCES.items()],
            value="self",
            label="What the attack sees first (the other follows)",
            elem_id="ra-source",
        )
        with gr.Row():
            self.start = gr.Button("Start the attack", variant="primary", min_width=160, elem_id="ra-start")
            self.stop = gr.Button("Stop", min_width=160, elem_id="ra-stop")
        self.outcome = gr.HTML(elem_id="ra-outcome")
        self.traces = gr.HTML(elem_id="ra-traces")

"""The model card of an adapter, and whether one was written here and never edited."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from radapt._version import __version__
from radapt.errors import AdapterError
from radapt.models import Delta, tensors_of
from radapt.results import WORST_CASE, Result, Results, with_worst_cases
from radapt.results.labels import attack_text, ball_text, noun
from radapt.text import markdown

from ._settings import AdapterSettings

__all__ = ["card", "ours", "results_of"]

_MARK = "\n<!-- radapt wrote this card, {digest}, and replaces it until it is edited -->\n"
_LARGEST = 1 << 20
_TASKS = {
    "zero-shot": "zero-shot-image-classification",
    "captioning": "image-to-text",
    "vqa": "visual-question-answering",
}
"""What the hub calls tasks."""
_PAPER = """"What Makes VLMs Robust? Towards Reconciling Robustness and Accuracy in Vision-Language Models"
(arXiv 2603.12799)"""
_ORIGINS = {
    "anchor": f"Method: {_PAPER}.",
    "deltas": f"The filter, and where robustness is put: {_PAPER}; the deltas of the first layers are radapt's.",
}


def card(
    settings: AdapterSettings,
    anchor: bool,
    deltas: Mapping[str, Delta],
    fingerprint: str,
    results: Sequence[Result] = (),
) -> str:
    """Model card: how the adapter was made, how to use it, what was measured, and what it does not promise."""
    s, tokens = settings, settings.prefix + settings.grid[0] * settings.grid[1]
    filter_line = (
        "none" if s.cutoff is None else f"Gaussian, {s.cutoff:.4g} cycles per pixel (D0 = {s.d0:.3g} at 224 px)"
    )
    held = dict[str, object]()
    if anchor:
        held = {
            "alpha": f"{s.alpha:g}",
            "mix": s.mix,
            "block": f"{s.block} (from 0)",
            "anchor": f"{tokens} tokens x {s.width}",
        }
    if deltas:
        numbers = sum(tensor.numel() for delta in deltas.values() for tensor in tensors_of(delta))
        held["deltas"] = f"of {len(deltas)} weights, {numbers:,} numbers"
    parts = "".join(f"| {name} | {text} |\n" for name, text in held.items())
    origin = "".join(f"| {markdown(name)} | {markdown(value)} |\n" for name, value in s.origin.items())
    text = f"""---
library_name: radapt
base_model: {json.dumps(s.base_model)}
tags: [radapt, adversarial-robustness, vision-language]
license: apache-2.0
{_index(s, results)}---

# R-Adapt adapter for {markdown(s.base_model)}

| setting | value |
|---|---|
| method | {markdown(s.method)} |
| filter | {filter_line} |
{parts}| fingerprint | {fingerprint} |
{origin}
```python
import radapt

model = radapt.load({json.dumps(s.base_model)})
adapter = radapt.Adapter.from_pretrained("THIS_FOLDER")
with adapter.attach(model):
    ...  # the adapted model: encode_image, logits or generate as ever; its weights are untouched
```

It belongs to a vision tower: one made on a CLIP fits the LLaVA built on that, too.

{_table(results)}\
Figures belong to a model, a dataset and a threat: measure yours with `radapt evaluate`, which gives the white-box
result (the attacker sees the adapter) beside the transfer result. An adapter that resists transferred images may
still fall to an attack through it.

{_ORIGINS["deltas" if deltas else "anchor"]} Made with radapt {__version__}.
"""
    return text + _MARK.format(digest=_digest(text))


def results_of(file: str | Path | Results | None, fingerprint: str) -> list[Result]:
    """What a card says of an adapter: clean results, those by transfer, and in each ball the worst case.

    Raises:
        AdapterError: the file holds nothing of this adapter.
        ResultsError: it cannot be read.
    """
    if file is None:
        return []
    with ExitStack() as stack:
        store = file if isinstance(file, Results) else stack.enter_context(Results(file, read_only=True))
        results = with_worst_cases(store)
    if not any(each.setting.adapter == fingerprint for each in results):
        raise AdapterError(f"{store.path} holds no result of this adapter ({fingerprint}): evaluate it first")
    own = [each for each in results if each.main and each.setting.adapter == fingerprint]
    worst = {each.setting.ball for each in own if each.setting.attack == WORST_CASE}
    return [
        each
        for each in own
        if each.kind != "white-box" or each.setting.attack == WORST_CASE or each.setting.ball not in worst
    ]


def _what(result: Result) -> str:
    """What a result is, with all that it must not be told without."""
    setting, count = result.setting, noun(result.setting.task)
    if result.kind == "clean":
        text = f"clean {count}"
    elif result.kind == "transfer":
        text = f"{count} under attacks on another model (transfer, no robustness): "
    else:
        text = f"robust {count} (white-box): "
    if result.kind != "clean":
        attacks = setting.options.get("attacks") if setting.attack == WORST_CASE else None
        names = ", ".join(map(str, attacks)) if isinstance(attacks, list) else attack_text(setting)
        text += f"{ball_text(setting.norm, setting.eps)}, {names}"
    doubt = ", ".join(result.flags) or ("" if result.checked or result.kind != "white-box" else "not checked")
    return text + (f" ({doubt})" if doubt else "")


def _index(settings: AdapterSettings, results: Sequence[Result]) -> str:
    """The results for the index of the hub."""
    if not results:
        return ""
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type=_TASKS.get(each.setting.task, each.setting.task),
            dataset_type=each.setting.dataset,
            dataset_name=each.setting.dataset,
            dataset_split=each.setting.split,
            metric_type=each.setting.metric,
            metric_name=f"{_what(each)}, n = {each.n}",
            metric_value=round(each.percent, 2),
        )
        for each in results
    ]
    data = ModelCardData(model_name=f"{settings.method} of {settings.base_model}", eval_results=found)
    return f"{data.to_yaml()}\n"


def _table(results: Sequence[Result]) -> str:
    """The results as a table."""
    if not results:
        return ""
    lines = [
        f"| {markdown(each.setting.dataset)} | {each.n} | {markdown(_what(each))} | {each.percent:.1f} "
        f"[{each.low:.1f}, {each.high:.1f}] |"
        for each in results
    ]
    head = ["| dataset | n | what was measured | per cent, 95 % interval |", "|---|---|---|---|"]
    return "\n".join([*head, *lines]) + "\n\n"


def ours(path: Path) -> bool:
    """Whether a card may be replaced: there is none, or one that :func:`card` wrote and nobody edited."""
    if not path.exists():
        return not path.is_symlink()
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return False
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    body, _, mark = text.rpartition("\n<!--")
    return f"\n<!--{mark}" == _MARK.format(digest=_digest(body))


def _digest(text: str) -> str:
    return hashlib.sha256(re.sub(r"\s+", " ", text).strip().encode()).hexdigest()[:16]

"""The model card of an adapter, and whether one was written here and never edited."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from radapt._version import __version__
from radapt.models import Delta, tensors_of
from radapt.text import markdown

from ._settings import AdapterSettings

__all__ = ["card", "ours"]

_MARK = "\n<!-- radapt wrote this card, {digest}, and replaces it until it is edited -->\n"
_LARGEST = 1 << 20
_PAPER = """"What Makes VLMs Robust? Towards Reconciling Robustness and Accuracy in Vision-Language Models"
(arXiv 2603.12799)"""
_ORIGINS = {
    "anchor": f"Method: {_PAPER}.",
    "deltas": f"The filter, and where robustness is put: {_PAPER}; the deltas of the first layers are radapt's.",
}


def card(settings: AdapterSettings, anchor: bool, deltas: Mapping[str, Delta], fingerprint: str) -> str:
    """Model card: how the adapter was made, how to use it, and what it does not promise."""
    s, tokens = settings, settings.prefix + settings.grid[0] * settings.grid[1]
    filter_line = (
        "none" if s.cutoff is None else f"Gaussian, {s.cutoff:.4g} cycles per pixel (D0 = {s.d0:.3g} at 224 px)"
    )
    held = dict[str, object]()
    if anchor:
        held = {"alpha": f"{s.alpha:g}", "mix": s.mix, "block": s.block + 1, "anchor": f"{tokens} tokens x {s.width}"}
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
---

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

Figures belong to a model, a dataset and a threat: measure yours with `radapt evaluate`, which gives the white-box
result (the attacker sees the adapter) beside the transfer result. An adapter that resists transferred images may
still fall to an attack through it.

{_ORIGINS["deltas" if deltas else "anchor"]} Made with radapt {__version__}.
"""
    return text + _MARK.format(digest=_digest(text))


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

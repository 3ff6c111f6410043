"""Adapters on disk: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card; nothing names code."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from radapt._version import __version__
from radapt.errors import AdapterError
from radapt.io import replacing, write_json, write_text
from radapt.schema import parse
from radapt.text import markdown, one_line
from radapt.types import Anchor

from ._settings import AdapterSettings

__all__ = ["CONFIG", "FORMAT", "WEIGHTS", "card", "push", "read", "save"]

FORMAT = 1
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TYPE = "radapt"


def save(settings: AdapterSettings, anchor: Anchor, fingerprint: str, folder: Path) -> Path:
    """Write an adapter's three files, each atomically.

    Raises:
        AdapterError: the folder cannot be written.
    """
    config = {"adapter_type": _TYPE, "format": FORMAT, "radapt_version": __version__, **asdict(settings)}
    try:
        write_json(folder / CONFIG, config)
        with replacing(folder / WEIGHTS) as partial:
            save_file({"anchor": anchor.detach().float().cpu().contiguous()}, partial, {"format": "pt"})
        write_text(folder / "README.md", card(settings, fingerprint))
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot write the adapter to {folder}: {error}") from error
    return folder


def read(name_or_folder: str | Path) -> tuple[AdapterSettings, Anchor]:
    """Settings and anchor of an adapter in a folder, or on the hub when the name is no folder."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = _fetch(str(name_or_folder))
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise AdapterError(f"{folder} is not an adapter folder: {' and '.join(missing)} missing")
    settings = _settings(folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{folder / WEIGHTS} cannot be read ({error}); it is damaged, save the adapter again"
        ) from error
    if set(tensors) != {"anchor"}:
        raise AdapterError(f"{folder / WEIGHTS} holds the tensors {sorted(tensors)}, allowed is only 'anchor'")
    return settings, tensors["anchor"].float()


def _settings(path: Path) -> AdapterSettings:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise AdapterError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or config.get("adapter_type") != _TYPE:
        kind = config.get("adapter_type", config.get("peft_type")) if isinstance(config, dict) else None
        raise AdapterError(f"{path} describes an adapter of type {kind!r}, not {_TYPE!r}")
    if config.get("format") != FORMAT:
        raise AdapterError(f"{path} has format {config.get('format')!r}, this version reads {FORMAT}; update radapt")
    values = {k: v for k, v in config.items() if k not in ("adapter_type", "format", "radapt_version")}
    return parse(AdapterSettings, values, where=str(path), error=AdapterError)


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise AdapterError(f"no adapter folder at {name}; give a folder with {CONFIG}, or a hub name (owner/name)")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, "README.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise AdapterError(f"no folder {name!r}, and the hub did not give it: {type(error).__name__}") from error


def push(
    settings: AdapterSettings, anchor: Anchor, fingerprint: str, repository: str, *, private: bool, token: str | None
) -> str:
    """Upload an adapter to the hub and return its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return str(api.upload_folder(repo_id=repository, folder_path=save(settings, anchor, fingerprint, Path(folder))))


def card(settings: AdapterSettings, fingerprint: str) -> str:
    """Model card: how the adapter was made, how to use it, and what it does not promise."""
    s, tokens = settings, settings.prefix + settings.grid[0] * settings.grid[1]
    filter_line = (
        "none" if s.cutoff is None else f"Gaussian, {s.cutoff:.4g} cycles per pixel (D0 = {s.d0:.3g} at 224 px)"
    )
    origin = "".join(f"| {markdown(name)} | {markdown(value)} |\n" for name, value in s.origin.items())
    base = json.dumps(one_line(s.base_model))  # JSON is YAML and Python, too
    return f"""---
library_name: radapt
base_model: {base}
tags: [radapt, adversarial-robustness, vision-language]
license: apache-2.0
---

# R-Adapt adapter for {markdown(s.base_model)}

| setting | value |
|---|---|
| method | {markdown(s.method)} |
| filter | {filter_line} |
| alpha | {s.alpha:g} |
| mix | {s.mix} |
| block | {s.block + 1} |
| anchor | {tokens} tokens x {s.width} |
| fingerprint | {fingerprint} |
{origin}
```python
import radapt

model = radapt.load({base})
adapter = radapt.Adapter.from_pretrained("THIS_FOLDER")
with adapter.attach(model):
    ...  # the adapted model: encode_image, logits or generate as ever; its weights are untouched
```

It belongs to a vision tower: one made on a CLIP fits the LLaVA built on that, too.

Figures belong to a model, a dataset and a threat: measure yours with `radapt evaluate`, which gives the white-box
result (the attacker sees the adapter) beside the transfer result. An adapter that resists transferred images may
still fall to an attack through it.

Method: "What Makes VLMs Robust? Towards Reconciling Robustness and Accuracy in Vision-Language Models"
(arXiv 2603.12799). Made with radapt {__version__}.
"""

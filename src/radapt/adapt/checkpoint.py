"""Adapters on disk: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card; nothing names code."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from radapt._version import __version__
from radapt.errors import AdapterError, SettingsError
from radapt.find import nearest

from .adapter import Adapter, AdapterSettings

__all__ = ["CONFIG", "FORMAT", "WEIGHTS", "card", "push", "read", "save"]

FORMAT = 1
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TYPE = "radapt"


def save(adapter: Adapter, folder: Path) -> Path:
    """Write an adapter's three files, each atomically.

    Raises:
        AdapterError: the folder cannot be written.
    """
    config = {"adapter_type": _TYPE, "format": FORMAT, "radapt_version": __version__, **asdict(adapter.settings)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        partial = folder / f"{WEIGHTS}.partial"
        save_file({"anchor": adapter.anchor.detach().float().cpu().contiguous()}, partial, {"format": "pt"})
        partial.replace(folder / WEIGHTS)
        _write(folder / "README.md", card(adapter).encode())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot write the adapter to {folder}: {error}") from error
    return folder


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read(name_or_folder: str | Path) -> Adapter:
    """Read an adapter from a folder, or from the hub when the name is no folder."""
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
    return Adapter(settings, tensors["anchor"].float())


def _settings(path: Path) -> AdapterSettings:
    try:
        config: Any = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise AdapterError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or config.get("adapter_type") != _TYPE:
        kind = config.get("adapter_type", config.get("peft_type")) if isinstance(config, dict) else None
        raise AdapterError(f"{path} describes an adapter of type {kind!r}, not {_TYPE!r}")
    if config.get("format") != FORMAT:
        raise AdapterError(f"{path} has format {config.get('format')!r}, this version reads {FORMAT}; update radapt")
    values = {k: v for k, v in config.items() if k not in ("adapter_type", "format", "radapt_version")}
    known = [f.name for f in fields(AdapterSettings)]
    for key in values:
        if key not in known:
            raise AdapterError(f"{path}: unknown key {key!r}{nearest(key, known)}")
    try:
        return AdapterSettings(**{**values, "grid": tuple(values["grid"])})
    except (TypeError, KeyError, SettingsError) as error:
        raise AdapterError(f"{path}: {error}") from error


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise AdapterError(f"no adapter folder at {name}; give a folder with {CONFIG}, or a hub name (owner/name)")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, "README.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise AdapterError(f"no folder {name!r}, and the hub did not give it: {type(error).__name__}") from error


def push(adapter: Adapter, repository: str, *, private: bool, token: str | None) -> str:
    """Upload an adapter to the hub and return its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return str(api.upload_folder(repo_id=repository, folder_path=save(adapter, Path(folder))))


def card(adapter: Adapter) -> str:
    """Model card: how the adapter was made, how to use it, and what it does not promise."""
    s = adapter.settings
    filter_line = (
        "none" if s.cutoff is None else f"Gaussian, {s.cutoff:.4g} cycles per pixel (D0 = {s.d0:.3g} at 224 px)"
    )
    origin = "".join(f"| {name} | {value} |\n" for name, value in s.origin.items())
    return f"""---
library_name: radapt
base_model: {json.dumps(s.base_model)}
tags: [radapt, adversarial-robustness, vision-language]
license: apache-2.0
---

# R-Adapt adapter for {s.base_model}

| setting | value |
|---|---|
| method | {s.method} |
| filter | {filter_line} |
| alpha | {s.alpha:g} |
| mix | {s.mix} |
| block | {s.block + 1} |
| anchor | {len(adapter.anchor)} tokens x {s.width} |
| fingerprint | {adapter.fingerprint} |
{origin}
```python
import radapt

model = radapt.load({json.dumps(s.base_model)})
adapter = radapt.Adapter.from_pretrained("THIS_FOLDER")
with adapter.attach(model):
    ...  # the adapted model: encode_image, logits or generate as ever; its weights are untouched
```

It belongs to a vision tower: one made on a CLIP fits the LLaVA built on that, too.

Figures belong to a model, a data set and a threat: measure yours with `radapt evaluate`, which gives the white-box
figure (the attacker sees the adapter) beside the transfer figure. An adapter that resists transferred images may
still fall to an attack through it.

Method: "What Makes VLMs Robust? Towards Reconciling Robustness and Accuracy in Vision-Language Models"
(arXiv 2603.12799). Made with radapt {__version__}.
"""

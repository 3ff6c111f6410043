"""Adapters, cards, experiments, searches, images and models as they are written, then spoiled; and what reads them."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tests.faults.mutations import hostile, spoiled_bytes, spoiled_tensors, spoiled_tree

import radapt
from radapt.adapters import Adapter
from radapt.data import card, load_dataset
from radapt.experiments import experiments, read, search
from radapt.images import open_image

__all__ = ["Case", "Executed", "cases", "mark_of"]

Case = Callable[[Path, random.Random], Callable[[], object]]
"""Writes a spoiled file or folder to a path, and returns the call that reads it."""


class Executed:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (self.mark, "w")


def mark_of(folder: Path) -> Path:
    return folder.parent / "executed"


def spoiled_yaml(value: Any, file: Path, numbers: random.Random) -> None:
    """A YAML file of spoiled values, of spoiled bytes, or one that names code, repeats itself or does not end."""
    text = yaml.safe_dump(value, allow_unicode=True)
    mark = mark_of(file.parent)
    lines = text.splitlines()
    at = numbers.randrange(len(lines))
    tags = [
        f"!!python/object/apply:builtins.open ['{mark}', 'w']",
        f"!!python/object/new:os.system ['touch {mark}']",
        "&a [*a, *a]",
        "!!binary x",
        "2024-13-45",
        "!!float []",
        "&a [" + "0," * 50 + "]\nb: &b [" + "*a," * 50 + "]\nc: [" + "*b," * 50 + "]",
        "[" * 3000,
        "1" * 4000,
    ]
    match numbers.randrange(4):
        case 0:
            file.write_bytes(spoiled_bytes(text.encode(), numbers))
        case 1:
            lines[at] = f"{lines[at].partition(':')[0]}: {numbers.choice(tags)}"
            file.write_text("\n".join(lines), encoding="utf-8")
        case _:
            file.write_text(yaml.safe_dump(spoiled_tree(value, numbers), allow_unicode=True), encoding="utf-8")


def spoiled_json(file: Path, numbers: random.Random) -> None:
    content = file.read_bytes()
    if numbers.random() < 0.25:
        file.write_bytes(spoiled_bytes(content, numbers))
    else:
        file.write_text(json.dumps(spoiled_tree(json.loads(content), numbers)))


def cases(originals: Path) -> dict[str, Case]:
    model = radapt.load(originals / "model")
    pixels = torch.rand(1, 3, 48, 48)

    def adapter(place: Path, numbers: random.Random) -> Callable[[], object]:
        shutil.copytree(originals / "adapter", place)
        config, anchor = place / "radapt_config.json", place / "radapt_anchor.safetensors"
        match numbers.randrange(4):
            case 0:
                spoiled_json(config, numbers)
            case 1:
                anchor.write_bytes(spoiled_tensors(anchor.read_bytes(), numbers))
            case 2:  # whose hash is right
                anchor.write_bytes(spoiled_tensors(anchor.read_bytes(), numbers))
                content = json.loads(config.read_text())
                content["anchor_sha256"] = hashlib.sha256(anchor.read_bytes()).hexdigest()
                config.write_text(json.dumps(content))
            case _:
                _missing(place, numbers)

        def use() -> None:
            with torch.no_grad(), Adapter.from_pretrained(place).attach(model):
                model.encode_image(pixels)

        return use

    def dataset(place: Path, numbers: random.Random) -> Callable[[], object]:
        place.mkdir()
        name = numbers.choice(["shapes", "colours", "shapeworld-captions", "shapeworld-vqa", "digits"])
        original = yaml.safe_load((Path(radapt.__file__).parent / "data" / "cards" / f"{name}.yaml").read_text())
        file = place / f"{name}.yaml"
        spoiled_yaml(original, file, numbers)

        def use() -> None:
            details = card(str(file))
            if details.source in ("shapeworld", "digits") and details.options.get("size", 48) == 48:
                load_dataset(file, n=1)

        return use

    def experiment(place: Path, numbers: random.Random) -> Callable[[], object]:
        place.mkdir()
        file = place / "own.yaml"
        spoiled_yaml(yaml.safe_load(numbers.choice(list(experiments().values())).read_text()), file, numbers)
        return lambda: read(file)

    def searched(place: Path, numbers: random.Random) -> Callable[[], object]:
        place.mkdir()
        file = place / "search.yaml"
        space = {"lr": ["3e-4", 1e-3], "layers": ["embedding", "block:0"], "n": [4, 8]}
        rungs = [{"steps": 2, "n": 4, "keep": 2}, {"steps": 4, "n": 8}]
        plan = {
            "model": str(place / "none"),
            "data": ["objects"],
            "n": 4,
            "settings": {"batch_size": 2},
            "space": space,
        }
        plan |= {"rungs": rungs, "validation": ["shapes"], "attack": "pgd", "eps": "4/255", "options": {"steps": 2}}
        spoiled_yaml({**plan, "trials": 3, "weight": 0.5, "seed": 0}, file, numbers)
        return lambda: search(file, out=place / "out", quiet=True)

    def image(place: Path, numbers: random.Random) -> Callable[[], object]:
        place.mkdir()
        kind = numbers.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
        stream, exif = io.BytesIO(), Image.Exif()
        exif[0x0112], exif[0x010E] = numbers.randrange(12), "x" * numbers.choice([1, 1000])
        mode = numbers.choice(["RGB", "L", "P", "RGBA"] if kind in ("PNG", "TIFF") else ["RGB", "L"])
        shown = Image.fromarray(np.frombuffer(numbers.randbytes(24 * 17 * 3), np.uint8).reshape(17, 24, 3)).convert(
            mode
        )
        shown.save(stream, kind, **({} if kind in ("GIF", "BMP", "PPM") else {"exif": exif}))
        file = place / f"a.{numbers.choice(['png', 'jpg', 'gif', 'tif', 'eps', 'txt'])}"
        content = stream.getvalue()
        for _ in range(numbers.randint(1, 2)):
            content = spoiled_bytes(content, numbers)
        file.write_bytes(content)
        return lambda: open_image(file)

    def weights(place: Path, numbers: random.Random) -> Callable[[], object]:
        shutil.copytree(originals / "model", place)
        names = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
        tensors = place / "model.safetensors"
        match numbers.randrange(6):
            case 0 | 1:
                spoiled_json(place / numbers.choice([*names, "config.json"]), numbers)
            case 2 | 3:
                tensors.write_bytes(spoiled_tensors(tensors.read_bytes(), numbers))
            case 4:
                _missing(place, numbers)
            case _:
                _with_code(place, numbers)

        def use() -> None:
            loaded = radapt.load(place)
            with torch.no_grad():
                loaded.encode_image(torch.rand(1, 3, *loaded.image_size))

        return use

    return {
        "adapter": adapter,
        "card": dataset,
        "experiment": experiment,
        "search": searched,
        "image": image,
        "model": weights,
    }


def _missing(place: Path, numbers: random.Random) -> None:
    """A file is missing, a folder, a link to nothing, or far too large for what it is."""
    file = numbers.choice(sorted(place.iterdir()))
    file.unlink()
    match numbers.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            file.symlink_to(place / "nowhere")
        case 2:
            with file.open("wb") as stream:
                stream.truncate(300 << 20)  # a hole, which takes no room
        case 3:
            file.symlink_to(file.name)


def _with_code(place: Path, numbers: random.Random) -> None:
    """A model whose files name code: a class of its own, pickled weights, a template."""
    mark, config = mark_of(place), place / "config.json"
    code = f"open({str(mark)!r}, 'w')\nclass Own: pass\n"
    content = json.loads(config.read_text())
    match numbers.randrange(4):
        case 0:
            (place / "own.py").write_text(code)
            content |= {"auto_map": dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "own.Own")}
            content |= {"model_type": numbers.choice(["clip", "own"])}
        case 1:
            (place / "model.safetensors").unlink()
            (place / "pytorch_model.bin").write_bytes(pickle.dumps({"logit_scale": Executed(str(mark))}))
        case 2:
            (place / "model.safetensors").unlink()
            torch.save({"logit_scale": Executed(str(mark))}, place / "pytorch_model.bin")
        case _:
            tokenizer = place / "tokenizer_config.json"
            given = json.loads(tokenizer.read_text())
            (place / "own.py").write_text(code)
            given |= {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": hostile(numbers)}
            given |= {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}
            tokenizer.write_text(json.dumps(given))
    config.write_text(json.dumps(content))

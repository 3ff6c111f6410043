"""Whatever a file from outside holds: it is accepted and works, or one error of this library says why not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.faults.mutations import hostile, spoiled_bytes, spoiled_tensors, spoiled_tree
from tests.tiny import tiny_clip

import radapt
from radapt.adapters import Adapter, training_free
from radapt.data import card, load_dataset
from radapt.errors import ModelError, RadaptError, SettingsError
from radapt.experiments import experiments, read, search
from radapt.images import open_image

CASES = int(os.environ.get("RADAPT_FUZZ_CASES", "170"))
"""Of each kind of file in the slow test; those of a larger number begin with those of a smaller one."""
SEED = int(os.environ.get("RADAPT_FUZZ_SEED", "0"))
QUICK = 8
SECONDS = 60

Case = Callable[[Path, random.Random], Callable[[], object]]
"""Writes a spoiled file or folder to a path, and returns the call that reads it."""


class HangError(BaseException):
    """No error of the library, and none that it catches."""


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


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an adapter as they are written."""
    folder = tmp_path_factory.mktemp("originals")
    model = tiny_clip()
    model.save_pretrained(folder / "model")
    training_free(model).save_pretrained(folder / "adapter")
    return folder


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


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Iterator[None]:
    """Programs cannot be run, and what does not end is ended."""

    def started(*_: object, **__: object) -> None:
        raise HangError("a program is run")

    def late(*_: object) -> None:
        raise HangError(f"more than {SECONDS} seconds")

    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr("os.system", started)
    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def tried(kind: str, originals: Path, place: Path, count: int) -> Counter[str]:
    """Read so many spoiled files, and count what came of them; all that is no error of this library is told."""
    outcomes, wrong = Counter[str](), list[str]()
    case = cases(originals)[kind]
    for number in range(count):
        folder = place / "case"
        use = case(folder, random.Random(f"{SEED} {kind} {number}"))
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
            outcomes["accepted"] += 1
        except RadaptError as error:
            outcomes["refused"] += 1
            if not str(error).strip() or len(str(error)) > 3000:
                wrong.append(f"{number}: a message of {len(str(error))} characters: {str(error)[:200]}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"{number}: {type(error).__name__} at {last.filename}:{last.lineno}: {str(error)[:200]}")
        finally:
            signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
        if mark_of(folder).exists():
            mark_of(folder).unlink()
            wrong.append(f"{number}: something was executed")
    print(kind, dict(outcomes), len(wrong))
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    assert outcomes.total() == count
    return outcomes


KINDS = ["adapter", "card", "experiment", "search", "image", "model"]


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_spoiled_files(kind: str, originals: Path, tmp_path: Path) -> None:
    assert set(cases(originals)) == set(KINDS)
    assert tried(kind, originals, tmp_path, QUICK)["refused"]


@pytest.mark.slow
@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("kind", KINDS)
def test_many_spoiled_files(kind: str, originals: Path, tmp_path: Path) -> None:
    outcomes = tried(kind, originals, tmp_path, CASES)
    assert outcomes["refused"] > CASES // 4


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_are_accepted_as_they_are(
    kind: str, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "tests.faults.test_hostile_files"
    for name in ("spoiled_tensors", "spoiled_bytes"):
        monkeypatch.setattr(f"{module}.{name}", lambda content, numbers: content)
    for name in ("spoiled_json", "_missing", "_with_code"):
        monkeypatch.setattr(f"{module}.{name}", lambda *given: None)
    monkeypatch.setattr(f"{module}.spoiled_yaml", lambda value, file, numbers: file.write_text(yaml.safe_dump(value)))
    if kind == "search":  # up to the model, which is not there
        with pytest.raises(RadaptError, match="unknown model"):
            cases(originals)[kind](tmp_path / "case", random.Random(0))()
    else:
        assert tried(kind, originals, tmp_path, 3)["accepted"] == 3


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", "merges.txt"])
def test_a_file_of_a_model_that_is_far_too_large_is_not_read(name: str, originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals / "model", tmp_path / "model")
    with (tmp_path / "model" / name).open("wb") as stream:
        stream.truncate(300 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=rf"the file {name} of .* has 314572800 bytes, more than the .* allowed"):
        radapt.load(tmp_path / "model")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_mark_is_left_where_something_is_executed(tmp_path: Path) -> None:
    """The test itself would notice."""
    pickle.loads(pickle.dumps(Executed(str(tmp_path / "mark")))).close()  # noqa: S301
    assert (tmp_path / "mark").exists()
    assert issubclass(SettingsError, RadaptError)

from __future__ import annotations

import json
import math
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

import radapt
from radapt import __version__
from radapt.adapters import Adapter, micro_adapters, training_free
from radapt.errors import AdapterError, SettingsError


@pytest.fixture
def adapter(tiny_vlm: Any) -> Adapter:
    return training_free(tiny_vlm, cutoff=0.123456789, alpha=0.65, mix="add", image="grey")


@pytest.fixture
def folder(adapter: Adapter, tmp_path: Path) -> Path:
    return adapter.save_pretrained(tmp_path / "nested" / "adapter")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "radapt_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not Ellipsis}))


def put(folder: Path, **tensors: Tensor) -> None:
    """Other tensors in the place of the anchor, and no hash that tells."""
    save_file(tensors, folder / "radapt_anchor.safetensors")
    edit(folder, anchor_sha256=...)


def earlier(folder: Path) -> Path:
    """The folder as earlier versions wrote it."""
    (folder / "radapt_config.json").rename(folder / "adapter_config.json")
    (folder / "radapt_anchor.safetensors").rename(folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "anchor_sha256"}))
    return folder


def test_writes_three_files_and_no_more(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "radapt_anchor.safetensors", "radapt_config.json"]
    config = json.loads((folder / "radapt_config.json").read_text())
    assert config["adapter_type"] == "radapt"
    assert (config["format"], config["radapt_version"]) == (1, __version__)
    assert (config["alpha"], config["cutoff"], config["grid"]) == (0.65, 0.123456789, [4, 4])
    assert list(load_file(folder / "radapt_anchor.safetensors")) == ["anchor"]


def test_comes_back_to_the_bit(adapter: Adapter, folder: Path, tiny_vlm: Any) -> None:
    again = Adapter.from_pretrained(folder)
    assert torch.equal(again.anchor, adapter.anchor)
    assert again.settings == adapter.settings
    assert again.fingerprint == adapter.fingerprint
    pixels = torch.rand(2, 3, 32, 32)
    with adapter.attach(tiny_vlm):
        expected = tiny_vlm.encode_image(pixels)
    with again.attach(tiny_vlm):
        assert torch.equal(tiny_vlm.encode_image(pixels), expected)


def test_an_adapter_without_a_filter_comes_back(adapter: Adapter, tmp_path: Path) -> None:
    plain = adapter.change(cutoff=None)
    again = Adapter.from_pretrained(plain.save_pretrained(tmp_path))
    assert again.settings.cutoff is None
    assert again.fingerprint == plain.fingerprint


def test_saving_again_replaces_the_files(adapter: Adapter, folder: Path) -> None:
    adapter.change(alpha=0.1).save_pretrained(folder)
    assert Adapter.from_pretrained(folder).settings.alpha == 0.1


def test_the_card_names_the_model_and_the_settings(adapter: Adapter, folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert 'base_model: "tiny/clip"' in text
    for line in ("| alpha | 0.65 |", "| mix | add |", f"| fingerprint | {adapter.fingerprint} |", "| image | grey |"):
        assert line in text
    assert "17 tokens x 32" in text
    assert "white-box" in text


@pytest.mark.parametrize("name", ["radapt_config.json", "radapt_anchor.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"{name} missing"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    path = folder / "radapt_anchor.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(AdapterError, match="damaged"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alfa": 1.0}, "unknown key 'alfa'; did you mean 'alpha'"),
        ({"adapter_type": "lora"}, "type 'lora', not 'radapt'"),
        ({"adapter_type": ..., "peft_type": "LORA"}, "type 'LORA', not 'radapt'"),
        ({"format": 3}, "format 3, this version reads 2; update radapt"),
        ({"format": ...}, "format None"),
        ({"width": ...}, "width"),
        ({"grid": ...}, "grid"),
        ({"grid": 4}, "radapt_config.json"),
        ({"alpha": "much"}, "radapt_config.json"),
        ({"alpha": -1.0}, "alpha must be finite"),
        ({"cutoff": 0.0}, "cutoff must be > 0"),
        ({"mix": "ad"}, "did you mean 'add'"),
        ({"width": 16}, r"\(17, 32\), its settings ask for \(17, 16\)"),
        ({"grid": [5, 4]}, r"\(17, 32\), its settings ask for \(21, 32\)"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(AdapterError, match=message):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "radapt_config.json").write_text(text)
    with pytest.raises(AdapterError, match=r"radapt_config\.json"):
        Adapter.from_pretrained(folder)


def test_other_tensors_are_refused(folder: Path) -> None:
    put(folder, **load_file(folder / "radapt_anchor.safetensors"), lora_A=torch.zeros(2))
    with pytest.raises(AdapterError, match=r"\['anchor', 'lora_A'\], allowed is only 'anchor'"):
        Adapter.from_pretrained(folder)


def test_an_anchor_with_nan_is_refused(folder: Path) -> None:
    put(folder, anchor=torch.full((17, 32), torch.nan))
    with pytest.raises(AdapterError, match="544 values that are not finite"):
        Adapter.from_pretrained(folder)


def test_half_precision_anchors_are_read(adapter: Adapter, folder: Path) -> None:
    put(folder, anchor=adapter.anchor.half())
    assert torch.equal(Adapter.from_pretrained(folder).anchor, adapter.anchor.half().float())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter folder at"):
        Adapter.from_pretrained(tmp_path / "missing")
    with pytest.raises(AdapterError, match="no folder 'someone/something', and the hub did not give it"):
        Adapter.from_pretrained("someone/something")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"radapt_config.json and radapt_anchor.safetensors missing"):
        Adapter.from_pretrained(tmp_path / "empty")


def test_adapters_that_ship_are_read_by_name() -> None:
    assert "micro/r-adapt-plus-static" in micro_adapters()
    for name in micro_adapters():
        model = "micro/photos" if "photos" in name else "micro/clip"
        adapter = Adapter.from_pretrained(name)
        with adapter.attach(radapt.load(model)):
            pass
    with pytest.raises(AdapterError, match="unknown adapter 'micro/r-adapt-plus'; did you mean 'micro/r-adapt-plus-"):
        Adapter.from_pretrained("micro/r-adapt-plus")


def test_a_folder_that_cannot_be_written(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdapterError, match="cannot write the adapter to"):
        adapter.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("edited", [False, True])
def test_pushes_the_three_files_to_the_hub_and_leaves_an_edited_card(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    calls: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None = None) -> None:
            calls["token"] = token

        def create_repo(self, name: str, **options: Any) -> None:
            calls["repository"] = (name, options)

        def hf_hub_download(self, name: str, file: str, *, local_dir: str) -> str:
            if not edited:
                raise EntryNotFoundError("no card")
            (Path(local_dir) / file).write_text("# Mine")
            return file

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
            calls["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.warns(UserWarning, match="left as it is") if edited else nullcontext():
        assert adapter.push_to_hub("me/robust", private=True, token="secret") == "https://hub/me/robust"
    assert calls["token"] == "secret"
    assert calls["repository"] == ("me/robust", {"private": True, "exist_ok": True})
    assert sorted(calls["files"]) == ["README.md", "radapt_anchor.safetensors", "radapt_config.json"]
    assert not any(b"secret" in content for content in calls["files"].values())
    assert (calls["files"]["README.md"] == b"# Mine") == edited


def test_a_hub_that_refuses_is_an_error(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", Mock(side_effect=ConnectionError("no route")))
    with pytest.raises(AdapterError, match="the hub did not take the adapter as 'me/robust': no route"):
        adapter.push_to_hub("me/robust")


def test_reads_from_the_hub(adapter: Adapter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object]] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Adapter.from_pretrained("me/robust").fingerprint == adapter.fingerprint
    Adapter.from_pretrained("me/robust", revision="v1")
    Adapter.from_pretrained("me/robust@3f2a")
    assert asked == [("me/robust", None), ("me/robust", "v1"), ("me/robust", "3f2a")]
    with pytest.raises(AdapterError, match="is a folder, and revision='v1' belongs to a name on the hub"):
        Adapter.from_pretrained(folder, revision="v1")
    with pytest.raises(AdapterError, match="is a folder, and revision"):
        Adapter.from_pretrained("micro/shallow", revision="v1")


@pytest.mark.slow
def test_a_card_tells_what_was_measured_the_worst_case_and_transfer_called_so(tmp_path: Path) -> None:
    adapter = Adapter.from_pretrained("micro/shallow")
    file = tmp_path / "r.sqlite"
    given: dict[str, Any] = {"data": "shapes", "n": 4, "attack": ["pgd", "square"], "options": {"steps": 2}}
    results = radapt.evaluate(("micro/clip", adapter), results=file, quiet=True, sanity=False, **given)
    adapter.save_pretrained(tmp_path / "there", results=file)
    text = (tmp_path / "there" / "README.md").read_text()
    (model,) = ModelCard(text).data.to_dict()["model-index"]
    told = {each["name"]: each["value"] for part in model["results"] for each in part["metrics"]}
    kinds = {name.split(" (")[0] for name in told}
    assert {"accuracy under attacks on another model", "robust accuracy"} < kinds
    assert any(name.startswith("clean accuracy, n = 4") for name in told)
    worst = [result.percent for result in results if result.setting.attack == "worst case"]
    assert [value for name, value in told.items() if name.startswith("robust accuracy")] == [round(*worst, 2)]
    assert any("no robustness" in name and "4/255" in name and "square" in name for name in told)
    assert text.count("| shapes | 4 |") == len(told)
    adapter.save_pretrained(tmp_path / "there", results=file)  # a card that was not edited is written anew
    assert Adapter.from_pretrained(tmp_path / "there").fingerprint == adapter.fingerprint
    with pytest.raises(AdapterError, match="holds no result of this adapter"):
        adapter.change(cutoff=0.3).save_pretrained(tmp_path / "other", results=file)
    assert not (tmp_path / "other").exists()


def test_what_earlier_versions_wrote_is_read_and_replaced(adapter: Adapter, folder: Path) -> None:
    earlier(folder)
    assert Adapter.from_pretrained(folder).fingerprint == adapter.fingerprint
    adapter.change(alpha=0.1).save_pretrained(folder)
    assert Adapter.from_pretrained(folder).settings.alpha == 0.1
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "radapt_anchor.safetensors", "radapt_config.json",
    ]  # fmt: skip


def test_a_model_with_an_adapter_in_its_folder_loads_and_so_does_the_adapter(
    tiny_vlm: Any, adapter: Adapter, tmp_path: Path
) -> None:
    tiny_vlm.save_pretrained(tmp_path)
    adapter.save_pretrained(tmp_path)
    loaded, weights = radapt.load(tmp_path).model.state_dict(), tiny_vlm.model.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert type(tiny_vlm.model).from_pretrained(tmp_path) is not None
    assert Adapter.from_pretrained(tmp_path).fingerprint == adapter.fingerprint


def test_an_adapter_of_peft_in_the_folder_stays(adapter: Adapter, tmp_path: Path) -> None:
    others = {"adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.safetensors": "weights", "notes": "mine"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(AdapterError, match="type 'LORA', not 'radapt'"):
        Adapter.from_pretrained(tmp_path)
    adapter.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in others} == others
    assert Adapter.from_pretrained(tmp_path).fingerprint == adapter.fingerprint


@pytest.mark.parametrize("change", [lambda text: "# Mine", lambda text: text + "more", lambda text: text[10:]])
def test_a_card_that_is_not_ours_or_was_edited_stays(adapter: Adapter, folder: Path, change: Any) -> None:
    readme = folder / "README.md"
    changed = change(readme.read_text())
    readme.write_text(changed)
    with pytest.warns(UserWarning, match=r"README.md is of others or was edited, and is left as it is"):
        adapter.change(alpha=0.2).save_pretrained(folder)
    assert readme.read_text() == changed
    assert Adapter.from_pretrained(folder).settings.alpha == 0.2


def test_our_own_card_is_replaced(adapter: Adapter, folder: Path) -> None:
    adapter.change(alpha=0.2).save_pretrained(folder)
    assert "| alpha | 0.2 |" in (folder / "README.md").read_text()
    text = (folder / "README.md").read_text().replace("\n", "\r\n")  # as git may check it out
    (folder / "README.md").write_bytes(text.encode())
    adapter.change(alpha=0.3).save_pretrained(folder)
    assert "| alpha | 0.3 |" in (folder / "README.md").read_text()


def test_texts_of_users_are_shown_literally_in_the_card(adapter: Adapter, tmp_path: Path) -> None:
    name = "a|b`c`*d*\n# Title\n```\n<script>[x](y)"
    origin = {"guide|": "x | y\n| z |", "list": ["|"]}
    made = adapter.change(base_model=name, method="own\nmethod", origin=origin)
    made.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("\n# ") == 1
    assert len(re.findall(r"(?m)^```", text)) == 2
    assert "\\<script\\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert yaml.safe_load(text.split("---")[1])["base_model"] == name
    assert Adapter.from_pretrained(tmp_path).settings == made.settings


@pytest.mark.parametrize("killed_at", [0, 1])
def test_a_save_that_is_killed_leaves_the_old_adapter_or_what_is_refused(
    adapter: Adapter, folder: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    replace, moves = Path.replace, list[str]()

    def dies(self: Path, target: Path) -> Path:
        if len(moves) == killed_at:
            raise KeyboardInterrupt
        moves.append(target.name)
        return replace(self, target)

    other = Adapter(adapter.change(alpha=0.1).settings, adapter.anchor + 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(folder)
    if killed_at == 0:
        assert Adapter.from_pretrained(folder).fingerprint == adapter.fingerprint
    else:
        with pytest.raises(AdapterError, match=r"not the one that radapt_config.json was saved with"):
            Adapter.from_pretrained(folder)
    other.save_pretrained(folder)
    assert Adapter.from_pretrained(folder).fingerprint == other.fingerprint


def test_a_disk_that_is_full_leaves_the_old_adapter(
    adapter: Adapter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", Mock(side_effect=OSError("No space left on device")))
        with pytest.raises(AdapterError, match=r"cannot write the adapter to .*: No space left"):
            Adapter(adapter.settings, adapter.anchor + 1).save_pretrained(folder)
    assert Adapter.from_pretrained(folder).fingerprint == adapter.fingerprint
    assert len(list(folder.iterdir())) == 3


def test_a_tilde_is_the_home_of_the_user(adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    adapter.save_pretrained("~/mine")
    assert (tmp_path / "mine" / "radapt_config.json").exists()
    assert Adapter.from_pretrained("~/mine").fingerprint == adapter.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"method": []}, {"method": None}, {"method": 3}, {"base_model": {}}, {"base_model": "\ud800"}, {"origin": []},
        {"origin": {"guide": "micro/fare"}}, {"origin": "text"}, {"guide": "micro/fare"}, {"alpha": 1e30},
        {"alpha": math.nan}, {"alpha": math.inf}, {"alpha": True}, {"alpha": 10**400}, {"alpha": None},
        {"cutoff": 1e-30}, {"cutoff": 1e30}, {"cutoff": math.nan}, {"cutoff": "0.1"}, {"block": -1}, {"block": 10**9},
        {"block": 1.5}, {"block": True}, {"block": 10**30}, {"mix": 1}, {"mix": ["add"]}, {"width": 0}, {"width": -32},
        {"width": "32"}, {"width": 10**20}, {"grid": [4]}, {"grid": [4, 4, 4]}, {"grid": [[4], 4]}, {"grid": [-4, -4]},
        {"grid": {"0": 4}}, {"prefix": -1}, {"prefix": 1.0}, {"patch_size": 0}, {"format": True}, {"format": "1"},
        {"format": 1.0}, {"adapter_type": ["radapt"]}, {"radapt_version": 1}, {"anchor_sha256": 1},
        {"anchor_sha256": "0" * 64}, {"unknown": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_whatever_a_config_holds_is_one_error(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    with pytest.raises(AdapterError) as caught:
        Adapter.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b'{"a": ' * 5000, b"[" * 100_000, b'{"adapter_type": "radapt", "adapter_type": "radapt"}',
        b'{"adapter_type": "\xff"}', b"null", b'"radapt"', b'{"adapter_type": "radapt", "format": 1}', b" " * (2 << 20),
    ],
    ids=lambda content: str(content[:20]),
)  # fmt: skip
def test_whatever_a_config_is_is_one_error(folder: Path, content: bytes) -> None:
    (folder / "radapt_config.json").write_bytes(content)
    with pytest.raises(AdapterError, match=r"radapt_config\.json"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize("name", ["radapt_config.json", "radapt_anchor.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "device"])
def test_what_is_no_file_is_refused(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    makers: dict[str, Any] = {
        "folder": Path.mkdir, "pipe": os.mkfifo, "link to nothing": lambda path: path.symlink_to("nothing"),
        "device": lambda path: path.symlink_to("/dev/zero"),
    }  # fmt: skip
    makers[kind](folder / name)
    with pytest.raises(AdapterError, match=name):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize(
    "tensors",
    [
        {}, {"anchor": torch.zeros(17, 31)}, {"anchor": torch.zeros(17 * 32)}, {"anchor": torch.zeros(17, 32, 1)},
        {"anchor": torch.zeros(17, 32, dtype=torch.int64)}, {"anchor": torch.zeros(17, 32, dtype=torch.bool)},
        {"anchor": torch.full((17, 32), 1e300, dtype=torch.float64)}, {"anchor": torch.full((17, 32), torch.inf)},
        {"other": torch.zeros(17, 32)}, {"anchor": torch.zeros(1000, 1000)},
        {"anchor": torch.zeros(17, 32, dtype=torch.complex64)},
    ],
    ids=lambda tensors: str({name: (tuple(each.shape), each.dtype) for name, each in tensors.items()}),
)  # fmt: skip
def test_whatever_the_anchor_is_is_one_error(folder: Path, tensors: dict[str, Tensor]) -> None:
    put(folder, **tensors)
    with pytest.raises(AdapterError, match=r"anchor"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize(
    "origin", [{"x": object()}, {"x": math.nan}, {"x": "\ud800"}, {"x": "x" * (1 << 20)}, {"x": ...}]
)
def test_what_could_not_be_read_again_is_not_written(adapter: Adapter, tmp_path: Path, origin: dict[str, Any]) -> None:
    deep: list[Any] = []
    for _ in range(80):
        deep = [deep]
    if origin["x"] is ...:
        origin = {"x": deep}
    with pytest.raises(AdapterError, match="cannot write the adapter to"):
        adapter.change(origin=origin).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, 3, "x" * 5000, "a\0b", "", "a/b/c", "a/b\ud800"])
def test_whatever_an_adapter_is_asked_by_is_one_error(name: Any, unchecked: None) -> None:
    with pytest.raises(AdapterError):
        Adapter.from_pretrained(name)


@pytest.mark.parametrize("changes", [{"grid": 4}, {"grid": None}, {"origin": None}, {"method": []}, {"base_model": 3}])
def test_types_of_settings_are_checked_when_made(adapter: Adapter, changes: dict[str, Any], unchecked: None) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        adapter.change(**changes)


def test_an_anchor_that_is_not_of_floating_point_is_refused_when_made(adapter: Adapter, unchecked: None) -> None:
    for anchor in (adapter.anchor.long(), adapter.anchor.bool()):
        with pytest.raises(AdapterError, match="must be of a floating-point type"):
            Adapter(adapter.settings, anchor)
    for anchor in (adapter.anchor / 0, adapter.anchor.double().fill_(1e300)):
        with pytest.raises(AdapterError, match="not finite"):
            Adapter(adapter.settings, anchor)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from radapt import __version__
from radapt.adapters import Adapter, training_free
from radapt.errors import AdapterError


@pytest.fixture
def adapter(tiny_vlm: Any) -> Adapter:
    return training_free(tiny_vlm, cutoff=0.123456789, alpha=0.65, mix="add", image="grey")


@pytest.fixture
def folder(adapter: Adapter, tmp_path: Path) -> Path:
    return adapter.save_pretrained(tmp_path / "nested" / "adapter")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not Ellipsis}))


def test_writes_three_files_and_no_more(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["adapter_type"] == "radapt"
    assert (config["format"], config["radapt_version"]) == (1, __version__)
    assert (config["alpha"], config["cutoff"], config["grid"]) == (0.65, 0.123456789, [4, 4])
    assert list(load_file(folder / "adapter_model.safetensors")) == ["anchor"]


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


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"{name} missing"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(AdapterError, match="damaged"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alfa": 1.0}, "unknown key 'alfa'; did you mean 'alpha'"),
        ({"adapter_type": "lora"}, "type 'lora', not 'radapt'"),
        ({"adapter_type": ..., "peft_type": "LORA"}, "type 'LORA', not 'radapt'"),
        ({"format": 2}, "format 2, this version reads 1; update radapt"),
        ({"format": ...}, "format None"),
        ({"width": ...}, "width"),
        ({"grid": ...}, "grid"),
        ({"grid": 4}, "adapter_config.json"),
        ({"alpha": "much"}, "adapter_config.json"),
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
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        Adapter.from_pretrained(folder)


def test_other_tensors_are_refused(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({**load_file(path), "lora_A": torch.zeros(2)}, path)
    with pytest.raises(AdapterError, match=r"\['anchor', 'lora_A'\], allowed is only 'anchor'"):
        Adapter.from_pretrained(folder)


def test_an_anchor_with_nan_is_refused(folder: Path) -> None:
    save_file({"anchor": torch.full((17, 32), torch.nan)}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="544 values that are not finite"):
        Adapter.from_pretrained(folder)


def test_half_precision_anchors_are_read(adapter: Adapter, folder: Path) -> None:
    save_file({"anchor": adapter.anchor.half()}, folder / "adapter_model.safetensors")
    assert torch.equal(Adapter.from_pretrained(folder).anchor, adapter.anchor.half().float())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter folder at"):
        Adapter.from_pretrained(tmp_path / "missing")
    with pytest.raises(AdapterError, match="no folder 'someone/something', and the hub did not give it"):
        Adapter.from_pretrained("someone/something")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"adapter_config.json and adapter_model.safetensors missing"):
        Adapter.from_pretrained(tmp_path / "empty")


def test_a_folder_that_cannot_be_written(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdapterError, match="cannot write the adapter to"):
        adapter.save_pretrained(tmp_path / "file")


def test_pushes_the_three_files_to_the_hub(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None = None) -> None:
            calls["token"] = token

        def create_repo(self, name: str, **options: Any) -> None:
            calls["repository"] = (name, options)

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
            calls["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert adapter.push_to_hub("me/robust", private=True, token="secret") == "https://hub/me/robust"
    assert calls["token"] == "secret"
    assert calls["repository"] == ("me/robust", {"private": True, "exist_ok": True})
    assert sorted(calls["files"]) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert not any(b"secret" in content for content in calls["files"].values())


def test_reads_from_the_hub(adapter: Adapter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, **options: Any) -> str:
        asked.append(name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Adapter.from_pretrained("me/robust").fingerprint == adapter.fingerprint
    assert asked == ["me/robust"]

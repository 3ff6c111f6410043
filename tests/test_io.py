from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from radapt.errors import SettingsError
from radapt.io import check_writable, expanded, replacing, replacing_folder, write_bytes, write_json, write_text


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~/a/b") == tmp_path / "a" / "b"
    assert expanded(Path("~")) == tmp_path
    assert expanded("a/~/b") == Path("a/~/b")
    assert expanded("~nobody-of-this-name/b") == Path("~nobody-of-this-name/b")
    write_text(Path("~/deep/file"), "text")
    assert (tmp_path / "deep" / "file").read_text() == "text"
    assert check_writable("~/other/file") == tmp_path / "other" / "file"
    with replacing_folder(Path("~/made"), "last") as folder:
        (folder / "last").touch()
    assert (tmp_path / "made" / "last").exists()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, depth: int) -> None:
    target, links = tmp_path / "elsewhere" / "target", [tmp_path / f"link {i}" for i in range(depth)]
    target.parent.mkdir()
    for link, to in zip(links, [*links[1:], target], strict=True):
        link.symlink_to(to)
    for content in (b"first", b"second"):  # the target is missing, then there
        assert check_writable(links[0]) == links[0]
        write_bytes(links[0], content)
        assert target.read_bytes() == content
    assert all(link.is_symlink() for link in links)
    assert not target.is_symlink()
    names = {"elsewhere", "target", *(path.name for path in links)}
    assert {path.name for path in tmp_path.rglob("*")} == names


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SettingsError, match="cannot be written"):
        check_writable(tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        write_text(tmp_path / "loop", "text")
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX devices and pipes")
def test_devices_and_pipes_are_written_into_and_stay(tmp_path: Path) -> None:
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    for path in (Path("/dev/null"), null):
        check_writable(path)
        write_json(path, {"a": 1})
    assert null.is_symlink()
    assert Path("/dev/null").is_char_device()
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"x" * 100_000)
    reader.join(10)
    assert got == [b"x" * 100_000]
    assert pipe.is_fifo()
    with pytest.raises(SettingsError, match="must be a folder"):
        check_writable("/dev/null", folder=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_text(Path("/dev/full"), "text")


_PRINTS = """
from pathlib import Path
from radapt.io import check_writable, write_json
print("before")
write_json(check_writable("/dev/stdout"), [1])
print("after")
"""


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
@pytest.mark.parametrize("to_a_file", [False, True])
def test_the_standard_output_gets_the_content_where_it_stands(tmp_path: Path, to_a_file: bool) -> None:
    file = tmp_path / "out"
    with file.open("wb") as stream:
        sink = stream if to_a_file else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", _PRINTS], stdout=sink, check=True)
    text = file.read_bytes() if to_a_file else done.stdout
    assert text.split() == [b"before", b"[", b"1", b"]", b"after"]


def test_the_permissions_of_a_file_stay_and_new_files_get_the_usual_ones(tmp_path: Path) -> None:
    old, plain = tmp_path / "old", tmp_path / "plain"
    old.write_text("secret")
    old.chmod(0o600)
    plain.touch()
    write_text(old, "new")
    write_text(tmp_path / "new", "new")
    assert old.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode


def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    write_text(tmp_path / ("é" * 127), "text")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_can_be_written_passes_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for path in ("file", "new", "a/b/c/new"):
        assert check_writable(str(tmp_path / path)) == tmp_path / path
    for path in ("", "new", "a/b"):
        assert check_writable(tmp_path / path, folder=True) == tmp_path / path
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "folder", "message"),
    [
        ("file", True, "it is a file, and must be a folder"),
        ("folder", False, "it is a folder, and must be a file"),
        ("file/below", False, "Not a directory"),
        ("file/below/deep", True, "Not a directory"),
        ("x" * 300, False, "name too long"),
        ("null\0byte", False, "null"),
        ("null\0byte", True, "null"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, path: str, folder: bool, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError, match=message):
        check_writable(tmp_path / path, folder=folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_is_refused(tmp_path: Path) -> None:
    closed, file = tmp_path / "closed", tmp_path / "file"
    closed.mkdir()
    closed.chmod(0o500)
    file.write_text("old")
    file.chmod(0o400)
    for path, folder in ((closed / "new", False), (closed / "a" / "b", True), (closed, True), (file, False)):
        with pytest.raises(SettingsError, match="Permission denied"):
            check_writable(path, folder=folder)
    with pytest.raises(PermissionError):
        write_text(file, "new")
    assert file.read_text() == "old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files")
def test_a_file_system_that_takes_no_files_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be written"):
        check_writable("/proc/radapt/new", folder=True)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_gets_its_files_at_once(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "deep" / "folder"
    if there:
        folder.mkdir(parents=True)
        for name in ("own", "a", "last"):
            (folder / name).write_text("old")
    with replacing_folder(folder, "last") as staged:
        for name in ("a", "last", "sub/b"):
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_text("new")
        assert folder.exists() == there
        if there:
            assert (folder / "a").read_text() == "old"
    new = {"a": "new", "last": "new", "sub/b": "new"}
    assert contents(folder) == ({"own": "old", **new} if there else new)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert folder.stat().st_mode == tmp_path.joinpath("deep").stat().st_mode


def test_a_folder_that_fails_is_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embedded null"), replacing_folder(tmp_path / "new", "last") as staged:
        (staged / "a\0").write_text("new")
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old"
    (old / "a").mkdir(parents=True)
    (old / "last").write_text("old")

    def write() -> None:
        with replacing_folder(old, "last") as staged:
            for name in ("a", "last"):
                (staged / name).write_text("new")

    with pytest.raises(IsADirectoryError):
        write()
    assert contents(old) == {"last": "old"}


@pytest.mark.parametrize("killed_at", range(4))
def test_a_folder_is_old_or_new_or_lacks_its_last_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    folder, replace, moves = tmp_path / "folder", Path.replace, list[str]()
    folder.mkdir()
    for name in ("a", "b", "last"):
        (folder / name).write_text("old")

    def dies(self: Path, target: Path) -> Path:
        if len(moves) == killed_at:
            raise KeyboardInterrupt
        moves.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    try:
        with replacing_folder(folder, "last") as staged:
            for name in ("a", "b", "last"):
                (staged / name).write_text("new")
    except KeyboardInterrupt:
        assert not (folder / "last").exists()
    else:
        assert set(contents(folder).values()) == {"new"}
    assert moves == ["a", "b", "last"][:killed_at]


def test_a_file_of_a_folder_that_is_a_link_stays_one(tmp_path: Path) -> None:
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir()
    (folder / "a").symlink_to(target)
    with replacing_folder(folder, "last") as staged:
        (staged / "a").write_text("new")
    assert (folder / "a").is_symlink()
    assert target.read_text() == "new"


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"

"""The verb and the command: what they refuse before anything is loaded, and who can reach them."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radapt.cli.main import app
from radapt.errors import SettingsError
from radapt.ui import _launch, launch


@pytest.fixture
def _no_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gradio" else real(name, *more)
    )


@pytest.mark.usefixtures("_no_gradio")
def test_without_gradio_the_extra_is_named() -> None:
    result = CliRunner().invoke(app, ["ui"])
    assert result.exit_code == 2
    assert 'the playground needs Gradio: pip install "radapt[ui]"' in result.output


@pytest.mark.parametrize("port", [0, -1, 65536, True, 80.5])
@pytest.mark.usefixtures("unchecked")
def test_a_port_that_is_none_is_refused(port: Any) -> None:
    with pytest.raises(SettingsError, match="port must be a whole number"):
        launch(port=port)


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"there is no host 'no\.such\.host\.invalid'.*use 127\.0\.0\.1"):
        launch(host="no.such.host.invalid")


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"no port from {port} to {port} can be used on 127.0.0.1"):
            launch(port=port)


def test_a_host_that_others_can_reach_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"others can reach 0\.0\.0\.0, and use the playground without a password"):
        _launch._check_host("0.0.0.0")
    _launch._check_host("127.0.0.1")
    _launch._check_host("localhost")


def test_the_command_hands_its_words_to_the_verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    class Running:
        url = "http://127.0.0.1:1/"

        def wait(self) -> None:
            given["waited"] = True

    def started(model: Any, **settings: Any) -> Running:
        given.update(settings, model=list(model))
        return Running()

    monkeypatch.setattr("radapt.ui.launch", started)
    words = ["--model", "a", "--model", "b", "--adapter", str(tmp_path), "--host", "::1", "--port", "81"]
    result = CliRunner().invoke(app, ["ui", *words, "--dtype", "bfloat16", "--device", "cuda:0"])
    assert result.exit_code == 0, result.output
    assert "open http://127.0.0.1:1/ in a browser" in result.output
    expected = {"model": ["a", "b"], "adapter": [str(tmp_path)], "host": "::1", "port": 81, "waited": True}
    assert given == expected | {"dtype": "bfloat16", "device": "cuda:0"}

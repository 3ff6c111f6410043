"""The verb: the playground on a port of this machine."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

from radapt.adapters import Adapter
from radapt.errors import SettingsError
from radapt.models import VLM
from radapt.numbers import whole

__all__ = ["MODELS", "Playground", "launch"]

MODELS = ("micro/clip", "micro/llava", "micro/qwen-vl")
"""The models that are offered unless others are named."""
_FIRST_PORT, _PORTS = 7860, 100


@final
class Playground:
    """A playground that is running; leaving the ``with`` block, or :meth:`close`, ends it.

    Attributes:
        url: where it is.
    """

    def __init__(self, page: Any, url: str, folder: tempfile.TemporaryDirectory[str]) -> None:
        self._page, self.url, self._folder = page, url, folder

    def wait(self) -> None:
        """Wait until it is interrupted (Ctrl-C), and close it."""
        try:
            self._page.block_thread()
        finally:
            self.close()

    def close(self) -> None:
        """End it, and remove what was uploaded."""
        self._page.close(verbose=False)
        self._folder.cleanup()

    def __enter__(self) -> Playground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch(
    model: str | Path | VLM | Sequence[str | Path | VLM] = MODELS,
    *,
    adapter: str | Path | Adapter | Sequence[str | Path | Adapter] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Playground:
    """Start the playground, a page in the browser: one picture, a model with and without its defence, attacked live.

    It goes on in the background until it is closed. Nothing is shared and nothing is reported; the page asks no other
    machine for anything. Whoever reaches the address may use it, without a password.

    Args:
        model: the models that are offered: names or folders, as :func:`radapt.load` takes them, or loaded ones.
        adapter: adapters that are offered beside those that ship with the package: folders, names, or adapters.
        host: address that it listens on; by default this machine only.
        port: its port; None for the first one from 7860 that is free.
        device, dtype: for models by name; see :func:`radapt.load`.

    Raises:
        SettingsError: Gradio is not installed, or there is no such host or no such free port.
        RadaptError: a model or an adapter cannot be read.

    Warns:
        UserWarning: others can reach the host.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SettingsError('the playground needs Gradio: pip install "radapt[ui]"')
    if port is not None:
        whole("port", port, 1, 65535)
    _check_host(host)
    chosen = _free_port(host, port)
    folder = tempfile.TemporaryDirectory(prefix="radapt-ui-")
    # Gradio reads these when it is imported, and when it makes components.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(Path(folder.name) / "cache")
    import gradio as gr

    from ._actions import Actions
    from ._guard import Guard
    from ._page import build
    from ._pictures import MOST_BYTES
    from ._shelf import Shelf

    try:
        shelf = Shelf(_listed(model), _listed(adapter), device=device, dtype=dtype)
        saved = Path(folder.name) / "saved"
        saved.mkdir()
        page = build(Actions(shelf), saved)
        # The theme's own small texts are too pale to be read.
        shades = {"block_info_text_color": "*neutral_600", "body_text_color_subdued": "*neutral_600"}
        shades |= {"block_label_text_color": "*neutral_600", "color_accent": "*primary_600"}
        shades |= {"button_primary_background_fill": "*primary_600"}
        shades |= {"button_primary_background_fill_hover": "*primary_700"}
        fonts: dict[str, Any] = {
            "font": ["system-ui", "sans-serif"],
            "font_mono": ["ui-monospace", "monospace"],
        }  # none is fetched
        page.queue(default_concurrency_limit=4, max_size=64, api_open=True)
        page.launch(
            server_name=host, server_port=chosen, prevent_thread_lock=True, share=False, quiet=True, inbrowser=False,
            show_error=False, max_file_size=MOST_BYTES, allowed_paths=[], blocked_paths=[], ssr_mode=False, pwa=False,
            mcp_server=False, enable_monitoring=False, state_session_capacity=200, footer_links=[],
            theme=gr.themes.Default(primary_hue="indigo", neutral_hue="slate", **fonts).set(**shades),
            css_paths=Path(__file__).with_name("page.css"),
            app_kwargs={"middleware": [(Guard, (), {})], "docs_url": None, "redoc_url": None, "openapi_url": None},
        )  # fmt: skip
    except BaseException:
        folder.cleanup()
        raise
    where = f"[{host}]" if ":" in host else host
    return Playground(page, f"http://{where}:{chosen}/", folder)


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, str | Path | VLM | Adapter) else list(given)


def _check_host(host: str) -> None:
    """Say who can reach a host that is not this machine alone.

    Raises:
        SettingsError: it is none of this machine's.
    """
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise SettingsError(f"there is no host {host!r} ({error}); use 127.0.0.1 for this machine only") from error
    if not all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found):
        warnings.warn(
            f"others can reach {host}, and use the playground without a password; the default, 127.0.0.1, is for this "
            "machine only",
            stacklevel=3,
        )


def _free_port(host: str, port: int | None) -> int:
    tried = [port] if port is not None else list(range(_FIRST_PORT, _FIRST_PORT + _PORTS))
    for each in tried:
        family = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, each))
            except OSError as error:
                reason = error.strerror
                continue
        return each
    raise SettingsError(f"no port from {tried[0]} to {tried[-1]} can be used on {host} ({reason}); give another port")

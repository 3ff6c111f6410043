"""What stands before the page: limits on what is sent to it, and no way from it to other machines."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

__all__ = ["Guard"]

_MOST_BYTES = 2**20
"""Of a request that is no upload: all that is typed fits into a fraction of it."""
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_Message = Mapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[Mapping[str, Any], _Receive, _Send], Awaitable[None]]


class Guard:
    """Checks requests before Gradio sees them, and forbids browsers to ask other machines for anything.

    Gradio would fetch addresses that a client names in place of a file; here, files are uploaded.

    Args:
        app: what is guarded.
    """

    def __init__(self, app: _Application) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        path = unquote(unquote(scope["path"]))
        if "file=http" in path.lower() or "proxy=" in path.lower() or "://" in path:
            await _refuse(answer, 403, "files of other machines are not fetched")
            return
        if scope["method"] != "POST" or path.endswith("/upload"):
            await self._app(scope, receive, answer)
            return
        body = await _body(receive)
        if body is None:
            await _refuse(answer, 413, f"a request may have {_MOST_BYTES} bytes")
            return
        if _names_address(body):
            await _refuse(answer, 403, "files of other machines are not fetched; upload the file")
            return
        sent = False

        async def again() -> _Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, answer)


async def _body(receive: _Receive) -> bytes | None:
    """The whole body of a request; None where it is too large."""
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MOST_BYTES:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _names_address(body: bytes) -> bool:
    """Whether something in a JSON text is a file whose path is an address on the network."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if any("://" in str(value.get(key) or "") for key in ("path", "orig_name")):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


async def _refuse(send: _Send, status: int, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

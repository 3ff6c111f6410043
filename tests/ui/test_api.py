"""The page without a browser: its interface for programs gives no file, no traceback and nobody else's state."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from tests.ui.conftest import SHAPES, TEMPLATES, bomb

from radapt.ui._shelf import SLIDERS

pytestmark = pytest.mark.slow
WORDS = (SHAPES, TEMPLATES, "", "")


class User:
    """Somebody with a session of their own."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, uuid.uuid4().hex
        config = json.loads(self.get("config")[1])
        self.names = {each["api_name"]: each["id"] for each in config["dependencies"] if each["api_name"]}

    def get(self, path: str) -> tuple[int, bytes]:
        return self._open(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any, kind: str = "application/json") -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._open(urllib.request.Request(self.url + path, data, {"Content-Type": kind}))

    @staticmethod
    def _open(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def start(self, name: str, *data: Any) -> tuple[int, bytes]:
        """Put a call into the queue."""
        number = self.names[name]
        body = {"data": list(data), "fn_index": number, "session_hash": self.session, "trigger_id": None}
        return self.post("gradio_api/queue/join", body)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What comes back of the calls in the queue."""
        request = urllib.request.Request(f"{self.url}gradio_api/queue/data?session_hash={self.session}")
        with urllib.request.urlopen(request, timeout=120) as stream:
            for line in stream:
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    yield message
                    if message["msg"] == "close_stream":
                        return

    def call(self, name: str, *data: Any) -> list[Any]:
        """Call one of the actions, and wait for its last output."""
        status, body = self.start(name, *data)
        assert status == 200, body
        for message in self.messages():
            if message["msg"] == "process_completed":
                assert message["success"], message
                found: list[Any] = message["output"]["data"]
                return found
        raise AssertionError("no answer")

    def predict(self, alpha: float = 0.4, classes: str = SHAPES) -> list[Any]:
        return self.call("predict", None, "micro/clip", SLIDERS, 40, alpha, classes, *WORDS[1:])

    def send(self, name: str, content: bytes) -> tuple[int, Any]:
        """Upload a file."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        status, answer = self.post("gradio_api/upload", body, f"multipart/form-data; boundary={mark}")
        return status, json.loads(answer) if status == 200 else answer.decode()


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def user(url: str) -> User:
    return User(url)


def png(tmp_path: Path, colour: tuple[int, int, int]) -> bytes:
    PIL.Image.new("RGB", (60, 60), colour).save(tmp_path / "one.png")
    return (tmp_path / "one.png").read_bytes()


def test_two_users_have_pictures_and_settings_of_their_own(url: str, tmp_path: Path) -> None:
    one, two = User(url), User(url)
    for user, colour in ((one, (255, 0, 0)), (two, (0, 0, 255))):
        status, [path] = user.send("one.png", png(tmp_path, colour))
        assert status == 200
        assert "your picture, 60 x 60 pixels" in user.call("upload", "micro/clip", file_data(path))[1]
    classes = "red square, blue square, green square"
    first, second = one.predict(classes=classes)[0], two.predict(classes=classes)[0]
    assert first != second
    found: dict[str, str] = {}

    def run(name: str, user: User) -> None:
        found[name] = user.predict(classes=classes)[0]

    threads = [threading.Thread(target=run, args=each) for each in (("one", one), ("two", two))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"one": first, "two": second}


def test_before_a_picture_is_chosen_there_is_a_sentence(user: User) -> None:
    answers, status = user.predict()
    assert "choose a picture first" in status
    assert "ra-card" not in json.dumps(answers)


def test_an_attack_comes_step_by_step_and_stops(user: User) -> None:
    user.call("choose_set", "micro/clip", "shapes")
    choice = [None, "micro/clip", SLIDERS, 40, 0.4, *WORDS]
    user.start("attack", *choice, "square", "1/255", "self")
    stopped, last = False, ""
    for message in user.messages():
        if message["msg"] == "process_generating" and not stopped:
            stopped = True
            body = {"data": [], "fn_index": user.names["stop"], "session_hash": user.session}
            status, answer = user.post("gradio_api/api/stop", body)
            assert status == 200
            assert b"The attack is stopped." in answer
        if message["msg"] == "process_completed":
            last = json.dumps(message)
    assert "not known: the attack was stopped" in last


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"a text", "is not an image that Pillow can read"), (bomb(60_000), "3600000000 pixels")],
    ids=["text", "bomb"],
)
def test_a_hostile_upload_is_refused_in_a_sentence(user: User, content: bytes, sentence: str) -> None:
    _, [path] = user.send("evil.png", content)
    *_, status = user.call("upload", "micro/clip", file_data(path))
    assert sentence in status
    assert "Traceback" not in status


def test_an_upload_has_a_limit(user: User) -> None:
    status, answer = user.send("large.png", bytes(11 * 2**20))
    assert status == 413
    assert "File size exceeded maximum allowed size of 10485760 bytes" in answer


def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text("the secret")
    return file


@pytest.mark.parametrize(
    "way",
    [
        "gradio_api/file={path}",
        "gradio_api/file=../../../../../..{path}",
        "gradio_api/file=%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e{path}",
        "gradio_api/file=file://{path}",
        "file={path}",
        "static/..%2f..%2f..%2f..%2f..%2f..{path}",
        "assets/..%2f..%2f..%2f..%2f..%2f..{path}",
        "theme.css/..%2f..%2f..{path}",
        "custom_component/x/y/z/..%2f..%2f..{path}",
    ],
)
def test_no_file_is_given_away(user: User, way: str, tmp_path: Path) -> None:
    status, body = user.get(way.format(path=secret(tmp_path)))
    assert b"the secret" not in body
    assert status != 200 or b"<!doctype html>" in body.lower()
    assert b"Traceback" not in body


@pytest.mark.parametrize("own", ["pyproject.toml", ".git/HEAD", "src/radapt/__init__.py"])
def test_no_file_of_where_it_was_started_is_given_away(user: User, own: str) -> None:
    for path in (own, str(Path(__file__).parents[2] / own)):
        assert user.get(f"gradio_api/file={path}")[0] in (403, 404)


def test_a_file_that_was_not_uploaded_is_not_opened(user: User, tmp_path: Path) -> None:
    file = tmp_path / "secret.png"
    PIL.Image.new("RGB", (60, 60)).save(file)
    user.start("upload", "micro/clip", file_data(str(file)))
    messages = list(user.messages())
    assert any(message["msg"] == "process_completed" and not message["success"] for message in messages)
    assert "Traceback" not in json.dumps(messages)


class Elsewhere(BaseHTTPRequestHandler):
    """Another machine, which notes who asks."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(404)
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        pass


def test_no_other_machine_is_asked(user: User) -> None:
    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/image.png"
    try:
        assert user.get(f"gradio_api/file={address}")[0] == 403
        assert user.get(f"gradio_api/file%3D{address}")[0] in (403, 404)
        assert user.get(f"gradio_api/proxy={address}")[0] == 403
        assert user.start("upload", "micro/clip", file_data(address))[0] == 403
        assert Elsewhere.asked == 0
    finally:
        server.shutdown()
        server.server_close()


def test_a_request_has_a_limit(user: User) -> None:
    status, body = user.start("predict", None, "micro/clip", SLIDERS, 40, 0.4, "x" * 2**21, *WORDS[1:])
    assert status == 413
    assert b"Traceback" not in body


@pytest.mark.parametrize("wrong", [None, "a", float("nan"), 1e9, -1, {}, []])
def test_a_wrong_value_ends_in_no_traceback(user: User, wrong: Any) -> None:
    user.call("choose_set", "micro/clip", "shapes")
    status, body = user.start("predict", None, "micro/clip", SLIDERS, 40, wrong, *WORDS)
    text = json.dumps(list(user.messages())) if status == 200 else body.decode()
    assert "Traceback" not in text
    assert "site-packages" not in text
    assert user.predict()[1] == ""


def test_browsers_are_told_to_ask_nobody_else(url: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer:
        policy, page = answer.headers["content-security-policy"], answer.read().decode()
    assert "default-src 'self'" in policy
    assert "http:" not in policy
    assert "fonts.googleapis" not in page


@pytest.mark.parametrize("path", ["docs", "redoc", "openapi.json", "monitoring"])
def test_there_is_nothing_beside_the_page(user: User, path: str) -> None:
    assert user.get(path)[0] in (403, 404)

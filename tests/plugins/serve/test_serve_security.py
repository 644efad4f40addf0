"""The page against those who mean it ill: other sites, hostile names, broken requests, and many at once."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from page_requests import HEIGHT, WIDTH, picture, post
from werkzeug.serving import make_server
from werkzeug.test import Client

from vlrun_serve import app
from vlrun_serve.app import AskPage
from vlrun_serve.serve_command import request_handler


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:81"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_pages_of_other_sites_cannot_ask(headers: dict[str, str], client: Client, run: Any) -> None:
    assert post(client, headers, text="a", image0="img1").status_code == 403
    assert not run.asked
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert post(client, own, text="a", image0="img1").status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost.evil.example", "evil.example:80", "127.0.0.1.nip.io", "a@localhost", "localhost/x", " ", ""]
)
def test_the_page_is_not_there_under_foreign_names(host: str, client: Client, run: Any) -> None:
    for path in ("/", "/about", "/images", "/picture?id=img1"):
        assert client.get(path, headers={"Host": host}).status_code == 400
    assert client.get("/about", headers={"Host": "localhost:8000"}).status_code == 200


def test_answers_are_for_this_page_alone(client: Client) -> None:
    for path in ("/", "/about", "/picture?id=img1", "/nowhere"):
        assert client.get(path).headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_what_is_shown_is_text_and_runs_nothing(client: Client) -> None:
    """Answers, ids and words come from files of others; the tests in a browser need one, and this one does not."""
    script, page = client.get("/page.js").text, client.get("/").text
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc", "document.write", "eval(", "Function("):
        assert way not in script
    assert re.findall(r"<script[^>]*>", page) == ['<script src="page.js" defer>']
    assert not re.search(r"\son\w+\s*=|javascript:|<style|\sstyle\s*=", page)
    for path in ("/", "/page.js", "/about", "/nowhere"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert (policy["default-src"], policy["script-src"], policy["base-uri"]) == ("'none'", "'self'", "'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers.get_all("Content-Type") == [headers["Content-Type"]]


def test_a_fault_is_one_answer_and_the_next_question_is_answered(client: Client, run: Any) -> None:
    response = post(client, text="a", image0="fault")
    assert (response.status_code, "fault of the program" in json.loads(response.text)["error"]) == (500, True)
    run.detector = lambda path: 1 / 0
    assert post(client, text="a", image0=(picture(), "a.png")).status_code == 500
    assert post(client, text="a", image0="img1").status_code == 200


def test_all_pictures_of_a_question_together_are_bounded(
    client: Client, run: Any, make_features: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.detector = lambda path: make_features("0")
    monkeypatch.setattr(app, "MAX_QUESTION_PIXELS", 2 * WIDTH * HEIGHT)
    two = {f"image{number}": (picture(), "a.png") for number in range(2)}
    assert post(client, text="a", **two).status_code == 200
    response = post(client, text="a", **two, image2=(picture(), "c.png"))
    assert response.status_code == 400
    assert json.loads(response.text)["error"].startswith("c.png: 200 x 100 pixels are more than")


NAMES = [
    "..\\..\\a.png",
    "/etc/passwd",
    "a\x00.png",
    "\x1b[31ma.png",
    "é\ud800.png",
    'a"; filename="b.png',
    "\r\nX: y.png",
    "a" * 5000,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_whatever_a_file_is_called_nothing_is_left_or_written_elsewhere(
    name: str, client: Client, run: Any, make_features: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    run.detector = lambda path: make_features(path.stem)
    before = sorted(tmp_path.rglob("*"))
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    sent = b'; filename="' + name.encode("utf-8", "surrogatepass") + b'"'
    body = part % (b"text", b"", b"a") + part % (b"image0", sent, picture()) + b"--x--\r\n"
    response = client.post("/ask", data=body, content_type="multipart/form-data; boundary=x")
    assert response.status_code in (200, 400)
    assert json.loads(response.text)
    assert sorted(tmp_path.rglob("*")) == before


HEAD = b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
REQUESTS = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no host": b"GET /about HTTP/1.1\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n--x",
    "no number": HEAD + b"Content-Length: many\r\n\r\n--x",
    "broken off": HEAD + b'Content-Length: 500\r\n\r\n--x\r\nContent-Disposition: form-data; name="text"\r\n\r\na',
    "huge": HEAD + b"Content-Length: 99999999999\r\n\r\n",
    "endless": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b"x" * 2**20 + b"\r\n") * 22,
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "no boundary": HEAD.replace(b"; boundary=x", b"") + b"Content-Length: 3\r\n\r\nabc",
    "path": b"GET /..%2f..%2fetc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "slashes": b"GET //evil.example/%2e%2e HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "odd bytes": b"GET /images?like=%ff%00\xff&like=%ed%a0%80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "another site": b"GET http://evil.example/about HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "other method": b"DELETE /ask HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_no_request_ends_the_server_or_asks(
    name: str, address: str, run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    said = raw(address, REQUESTS[name])
    assert b"root:" not in said
    assert b"Traceback" not in said
    assert b"Location" not in said
    assert not said.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5"))
    assert not run.asked
    assert b"200 OK" in raw(address, b"GET /about HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert "Traceback" not in capfd.readouterr().err


def test_many_ask_at_once_and_each_gets_its_own_answer(address: str, run: Any) -> None:
    inside, most = [0], [0]
    answered = run.ask

    def ask(*args: Any, **options: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.005)
        inside[0] -= 1
        return answered(*args, **options)

    def asked(number: int) -> list[str]:
        part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        body = f"{part.format('text', number)}{part.format('image0', f'other{number}')}--x--\r\n".encode()
        said = raw(address, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = json.loads(said.partition(b"\r\n\r\n")[2])
        return [*answer["texts"], answer["images"][0]["id"]]

    run.ask = ask
    with connected(address), ThreadPoolExecutor(16) as pool:  # one more connects, and says nothing
        assert list(pool.map(asked, range(40))) == [[str(number), f"other{number}"] for number in range(40)]
    assert most == [1], "the model is used by one thread at a time"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", HEAD + b"Content-Length: 500\r\n\r\n--x"], ids=["none", "head", "body"]
)
def test_a_connection_that_falls_silent_is_closed(sent: bytes, run: Any) -> None:
    server = make_server("127.0.0.1", 0, AskPage(run), threaded=True, request_handler=request_handler(0.2))
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    with connected(f"http://127.0.0.1:{server.port}") as connection:
        connection.sendall(sent)
        said = b"".join(iter(lambda: connection.recv(65536), b""))  # or a timeout
    assert said[:12] == (b"HTTP/1.1 400" if b"POST" in sent else b"")
    thread.join()
    server.server_close()


def connected(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def raw(address: str, request: bytes) -> bytes:
    """What the server says to these bytes and no more."""
    said = b""
    with connected(address) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                said += more
        except ConnectionError:  # it has closed without reading to the end
            pass
    return said

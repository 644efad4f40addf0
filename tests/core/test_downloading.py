"""Getting files from servers that break off, lie about the length, have moved, or serve another file."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlrun import DataError, RemoteFile
from vlrun.cli import main
from vlrun.data import downloading
from vlrun.data.downloading import RECORD, Fetcher

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` under any path; the other attributes say how it misbehaves.

    ``breaks`` holds after how many bytes each of the next answers ends; ``announces`` is the length that it claims.
    """

    content = CONTENT
    etag = '"one"'
    breaks: list[int]
    announces: int | None = None
    has_ranges = True
    status = 200
    html = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks, self.ranges = [], []  # type: ignore[assignment]
        self.ranges: list[str]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def address(self, name: str = "a.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        server.ranges.append(wanted)
        start = 0
        if wanted and server.has_ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if server.status != 200 or start >= len(server.content):
            self.send_response(server.status if server.status != 200 else 416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(server.announces if server.announces is not None else len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def other() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "downloads", pause=lambda seconds: None)


def remote(*servers: Server, size: int | None = None, sha256: str | None = DIGEST) -> RemoteFile:
    return RemoteFile(name="a.bin", urls=tuple(server.address() for server in servers), size=size, sha256=sha256)


def test_a_file_comes_whole_and_is_recorded(server: Server, fetcher: Fetcher) -> None:
    fetched = fetcher.fetch(remote(server))
    assert fetched.path.read_bytes() == CONTENT
    record = json.loads((fetcher.folder / RECORD).read_text())["a.bin"]
    assert (record["sha256"], record["from"]) == (DIGEST, server.address())


def test_a_connection_that_breaks_off_is_resumed(server: Server, fetcher: Fetcher) -> None:
    server.breaks = [300_000, 200_000, 100]
    assert fetcher.fetch(remote(server)).path.read_bytes() == CONTENT
    assert server.ranges == ["", "bytes=300000-", "bytes=500000-", "bytes=500100-"]


def test_another_process_goes_on_where_the_first_was_killed(server: Server, fetcher: Fetcher) -> None:
    server.breaks = [300_000] + [0] * 10
    with pytest.raises(DataError, match="300,000 bytes of it are kept"):
        fetcher.fetch(remote(server))
    assert not (fetcher.folder / "a.bin").exists()
    server.breaks, server.ranges = [], []
    again = Fetcher(fetcher.folder, pause=lambda seconds: None)
    assert again.fetch(remote(server, sha256=None)).path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300000-"]


def test_a_part_that_is_a_link_is_not_written_through(server: Server, fetcher: Fetcher, tmp_path: Path) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("kept")
    fetcher.folder.mkdir()
    fetcher._part(remote(server)).symlink_to(elsewhere)
    assert fetcher.fetch(remote(server)).path.read_bytes() == CONTENT
    assert elsewhere.read_text() == "kept"
    assert not (fetcher.folder / "a.bin").is_symlink()


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, fetcher: Fetcher) -> None:
    server.breaks = [300_000] + [0] * 10
    with pytest.raises(DataError):
        fetcher.fetch(remote(server, sha256=None))
    server.breaks, server.etag, server.content = [], '"two"', b"another version" * 50_000
    assert fetcher.fetch(remote(server, sha256=None)).path.read_bytes() == server.content


def test_without_a_hash_parts_of_two_mirrors_are_not_joined(server: Server, other: Server, fetcher: Fetcher) -> None:
    server.breaks = [300_000] + [0] * 10
    other.content = b"B" * len(CONTENT)
    assert fetcher.fetch(remote(server, other, sha256=None)).path.read_bytes() == other.content
    assert other.ranges == [""]


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(
    server: Server, other: Server, fetcher: Fetcher
) -> None:
    server.has_ranges, server.breaks = False, [1000] * 20
    assert fetcher.fetch(remote(server, other)).mirror == other.address()


@pytest.mark.parametrize("announced", [len(CONTENT) + 5000, len(CONTENT) - 5000])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_server_that_lies_about_the_length_is_given_up(
    server: Server, other: Server, fetcher: Fetcher, announced: int, size: int | None
) -> None:
    server.announces = announced
    server.has_ranges = False
    fetched = fetcher.fetch(remote(server, other, size=size))
    assert fetched.mirror == other.address()
    assert fetched.path.read_bytes() == CONTENT


def test_a_wrong_file_is_refused_with_both_hashes(server: Server, fetcher: Fetcher) -> None:
    server.content = b"x" * len(CONTENT)
    actual = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DataError) as caught:
        fetcher.fetch(remote(server))
    assert all(text in str(caught.value) for text in ("a.bin", server.address(), DIGEST, actual))
    assert [path.name for path in fetcher.folder.iterdir()] == []


def test_a_wrong_file_is_taken_on_demand_and_that_is_recorded(server: Server, fetcher: Fetcher) -> None:
    server.content = b"x" * 1000
    fetcher.accept = hashlib.sha256(server.content).hexdigest()
    assert fetcher.fetch(remote(server, size=len(CONTENT))).accepted
    record = json.loads((fetcher.folder / RECORD).read_text())["a.bin"]
    assert (record["sha256"], record["accepted_instead_of"]) == (fetcher.accept, DIGEST)
    later = Fetcher(fetcher.folder)
    assert later.fetch(remote(server, size=len(CONTENT))).accepted
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda server: setattr(server, "status", 404), "404"),
        (lambda server: setattr(server, "status", 503), "503"),
        (lambda server: setattr(server, "content", b"<!DOCTYPE html><html>sign in</html>"), "a web page"),
        (lambda server: server.server_close(), "broke off"),
    ],
    ids=["404", "503", "page", "refused"],
)
def test_the_next_mirror_is_asked(
    server: Server, other: Server, fetcher: Fetcher, change: Callable[[Server], object], reason: str
) -> None:
    said: list[str] = []
    fetcher.say = said.append
    change(server)
    if reason == "broke off":
        server.shutdown()
    assert fetcher.fetch(remote(server, other, sha256=None)).mirror == other.address()
    assert any(reason in message for message in said)


def test_a_part_that_is_whole_already_is_recognised(server: Server, fetcher: Fetcher) -> None:
    server.breaks = [300_000] + [0] * 10
    with pytest.raises(DataError):
        fetcher.fetch(remote(server))
    (fetcher.folder / ".a.bin.part").write_bytes(CONTENT)
    server.breaks = []
    assert fetcher.fetch(remote(server)).path.read_bytes() == CONTENT


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_of_ones_own_comes_first(server: Server, fetcher: Fetcher, tmp_path: Path, prefix: str) -> None:
    (tmp_path / "my files").mkdir()
    (tmp_path / "my files/a.bin").write_bytes(CONTENT)
    fetcher.extra_mirrors = [f"{prefix}{tmp_path}/my files".replace(" ", "%20" if prefix else " ")]
    assert fetcher.fetch(remote(server)).path.read_bytes() == CONTENT
    assert server.ranges == []


def test_a_checked_file_is_neither_fetched_nor_hashed_again(
    server: Server, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher.fetch(remote(server))
    monkeypatch.setattr(downloading, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert fetcher.fetch(remote(server)).mirror == ""
    assert len(server.ranges) == 1


def test_a_file_that_was_damaged_later_is_got_again(server: Server, fetcher: Fetcher) -> None:
    fetcher.fetch(remote(server)).path.write_bytes(b"damaged")
    assert fetcher.fetch(remote(server)).path.read_bytes() == CONTENT


def test_other_schemes_and_no_address_are_errors(fetcher: Fetcher) -> None:
    with pytest.raises(DataError, match="'ftp' addresses are not supported"):
        fetcher.fetch(RemoteFile(name="a.bin", urls=("ftp://127.0.0.1/a.bin",)))
    with pytest.raises(DataError, match="no address is known"):
        fetcher.fetch(RemoteFile(name="a.bin"))


PLUGIN = """
from vlrun import Download, RemoteFile, hookimpl

@hookimpl
def vlrun_downloads():
    shared = {{"kind": "annotations", "makes": "toy", "recognised": ("toy.json",), "page": "https://example.org/toy"}}
    return [
        Download(name="toy", summary="a toy", files=(RemoteFile(name="toy.zip", urls=("{url}",)),), **shared),
        Download(name="asked", summary="a toy", manual_steps=("sign the form",), **shared),
    ]
"""


def test_the_verb_gets_unpacks_and_does_nothing_twice(
    install: Callable[..., None], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = zipped("inside/toy.json", "[]")
    install("vlrun-toy", PLUGIN.format(url=server.address("toy.zip")))
    command = ["data", "get", "toy", "--to", str(tmp_path / "got")]
    assert [main(command), main(command)] == [0, 0]
    assert (tmp_path / "got/inside/toy.json").read_text() == "[]"
    assert len(server.ranges) == 1
    assert "unpacked 1 files" in capsys.readouterr().out


def test_a_damaged_archive_is_got_again(
    install: Callable[..., None], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = zipped("toy.json", "[]" * 100)
    server.content = archive[:-30]
    install("vlrun-toy", PLUGIN.format(url=server.address("toy.zip")))
    command = ["data", "get", "toy", "--to", str(tmp_path / "got")]
    assert main(command) == 5
    assert "toy.zip was removed; the same command gets it again" in capsys.readouterr().err
    server.content = archive
    assert main(command) == 0
    assert (tmp_path / "got/toy.json").exists()
    assert main([*command, "--again"]) == 0
    assert len(server.ranges) == 3


def test_a_hostile_archive_from_a_server_is_one_line(
    install: Callable[..., None], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.content = zipped("../../evil", "x")
    install("vlrun-toy", PLUGIN.format(url=server.address("toy.zip")))
    assert main(["data", "get", "toy", "--to", str(tmp_path / "in/got")]) == 5
    assert "outside the folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil"))


def zipped(name: str, text: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(name, text)
    return archive.getvalue()


def test_what_only_a_person_can_get_says_so(
    install: Callable[..., None], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toy", PLUGIN.format(url=server.address()))
    assert main(["data", "get", "asked"]) == 2
    assert "sign the form" in capsys.readouterr().err
    assert main(["data", "get", "tay"]) == 4
    assert "Did you mean 'toy'?" in capsys.readouterr().err


def test_the_list_names_address_licence_and_what_it_makes(
    install: Callable[..., None], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    install("vlrun-toy", PLUGIN.format(url=server.address()))
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("toy: a toy", "https://example.org/toy", "licence:", "makes annotations toy"))
    assert main(["data", "list", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert listed["toy"]["files"][0]["urls"] == [server.address()]
    assert not listed["asked"]["is_automatic"]

"""The page by plain HTTP: answers, uploads within bounds, and what must not get through."""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from page_requests import HEIGHT, WIDTH, picture, post
from PIL import Image
from werkzeug.test import Client, TestResponse

from vlrun import RegionFeatures, UsageError
from vlrun_serve import app, serve_command
from vlrun_serve.app import AskPage


def error(response: TestResponse) -> tuple[int, str]:
    return response.status_code, json.loads(response.text)["error"]


def test_the_page_and_its_parts_are_there_and_nothing_comes_from_elsewhere(client: Client) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        response = client.get(path)
        assert (response.status_code, response.mimetype) == (200, kind)
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in response.text
    assert client.get("/app.py").status_code == 404
    assert client.get("/../app.py").status_code == 404


def test_it_says_what_can_be_asked(client: Client) -> None:
    about = json.loads(client.get("/about").text)
    assert about == {
        "task": "rec",
        "checkpoint": "best (step 7)",
        "images": 1,
        "texts": 1,
        "stored": 52,
        "pool": 0,
        "detector": False,
        "reads_pictures": False,
        "note": None,
        "max_upload_bytes": app.MAX_UPLOAD_BYTES,
    }
    assert json.loads(client.get("/images?like=IMG").text) == ["img1", "img2"]
    assert len(json.loads(client.get("/images").text)) == 20


def test_a_stored_image_is_asked_about_by_its_id(client: Client, run: Any) -> None:
    response = post(client, text=" the red ball ", image0="img2")
    assert response.status_code == 200
    answer = json.loads(response.text)
    assert (answer["answer"], answer["choices"][0]["box"]) == ("region 3", [20, 10, 120, 60])
    assert answer["images"] == [{"id": "img2", "width": WIDTH, "height": HEIGHT}]
    assert run.asked == [(["the red ball"], ["img2"])]


def test_the_answer_says_what_the_text_attends_to(client: Client, run: Any) -> None:
    (attention,) = json.loads(post(client, text="a", image0="img2").text)["attention"]
    assert attention == {
        "text": "a",
        "image": "img2",
        "boxes": [[0, 0, 100, 50], [100, 50, 200, 100]],
        "shares": [0.75, 0.25],
        "words": [{"word": "the", "shares": [0.5, 0.5]}, {"word": "<i>", "shares": [0.2, 0.8]}],
    }
    run.looks = False
    assert "attention" not in json.loads(post(client, text="a", image0="img2").text)


def test_the_pictures_of_the_folder_compete_where_the_task_ranks(run: Any, pictures: Path) -> None:
    for name in ("img2.png", "not stored.jpg"):
        (pictures / name).write_bytes(picture())
    alone = Client(AskPage(run, pictures))
    assert json.loads(alone.get("/about").text)["pool"] == 0, "the task takes one image"
    assert error(post(alone, text="a", pool="pictures"))[0] == 400
    run.asked_images = None
    ranking = Client(AskPage(run, pictures))
    assert json.loads(ranking.get("/about").text)["pool"] == 2
    assert post(ranking, text="a", pool="pictures").status_code == 200
    assert run.asked == [(["a"], ["img1", "img2"])]


def test_photographs_compete_through_the_detector(client: Client, run: Any, make_features: Any) -> None:
    run.asked_images, run.detector = None, lambda path: make_features(path.stem)
    sent = {f"image{number}": (picture(), f"photo{number}.png") for number in range(3)}
    answer = json.loads(post(client, text="a", **sent).text)
    assert [image["id"] for image in answer["images"]] == ["photo0.png (0)", "photo1.png (1)", "photo2.png (2)"]
    assert answer["attention"][0]["image"] == answer["answer"] == "photo0.png (0)"


def test_a_model_that_sees_pictures_gets_what_is_sent(client: Client, run: Any) -> None:
    run.asked_images, run.reads_pictures = None, True
    assert json.loads(client.get("/about").text)["reads_pictures"]
    sent = {"image0": (picture(), "img1.png"), "image1": "img2", "image2": (picture(), "../photo.png")}
    answer = json.loads(post(client, text="a", **sent).text)
    assert [image["id"] for image in answer["images"]] == ["picture 1", "img2", "picture 3"]
    assert not any(path.exists() for path in run.asked[0][1] if isinstance(path, Path)), "they go away"


def test_two_images_keep_their_order(client: Client, run: Any) -> None:
    assert post(client, text="a", image0=(picture(), "img1.png"), image1="img2").status_code == 200
    first, second = run.asked[0][1]
    assert (first.image_id, second) == ("img1", "img2")


def test_a_dropped_picture_is_known_by_name_and_size(client: Client, run: Any) -> None:
    assert post(client, text="a", image0=(picture("JPEG"), "C:\\fakepath/img2.jpg")).status_code == 200
    assert run.asked[0][1][0].image_id == "img2"
    assert error(post(client, text="a", image0=(picture(size=(50, 50)), "img2.jpg"))) == (
        400,
        "img2.jpg: it is 50 x 50 pixels, the stored image of this name is 200 x 100; it must be another picture, or "
        "scaled",
    )
    status, message = error(post(client, text="a", image0=(picture(), "holiday.jpg")))
    assert (status, "the page takes a detector" in message, "'detector'" in message) == (400, True, True)


def test_the_detector_reads_a_file_of_ours_that_goes_away(
    client: Client, run: Any, make_features: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = sorted(tmp_path.rglob("*"))
    seen = []

    def detector(path: Path) -> RegionFeatures:
        seen.append(path)
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG", (WIDTH, HEIGHT))

        return make_features("0")

    run.detector = detector
    hostile = "../../../../etc/cron.d/x.png"
    assert post(client, text="a", image0=(picture("JPEG"), hostile)).status_code == 200
    assert run.asked[0][1][0].image_id == f"{hostile} (0)"
    (path,) = seen
    assert path.name == "0.png"
    assert (tmp_path / "temporary") in path.parents
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left"


def bomb() -> bytes:
    """A PNG that says of itself that it has 10^10 pixels, in less than 100 bytes."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"#!/bin/sh\nrm -rf /", "no picture that can be read (JPEG, PNG)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read (JPEG, PNG)"),
        (b"GIF89a", "no picture that can be read (JPEG, PNG)"),
        (picture("PNG")[:60], "damaged"),
        (picture("JPEG")[:200], "damaged"),
        (bomb(), "pixels"),
    ],
    ids=["empty", "script", "svg", "gif", "cut png", "cut jpeg", "bomb"],
)
def test_what_is_no_picture_is_refused_in_one_line(client: Client, run: Any, content: bytes, message: str) -> None:
    status, said = error(post(client, text="a", image0=(content, "img1.png")))
    assert status == 400
    assert said.startswith("img1.png: ")
    assert message in said
    assert "\n" not in said
    assert not run.asked


def test_uploads_are_bounded(client: Client, run: Any) -> None:
    assert error(post(client, text="a", image0=(b"x" * (app.MAX_UPLOAD_BYTES + 1), "img1.png")))[0] == 413
    assert error(post(client, text="a" * 200_000, image0="img1"))[0] == 413
    many = {f"image{number}": "img1" for number in range(1000)}
    assert error(post(client, text="a", **many))[0] == 413
    assert not run.asked


def test_questions_without_image_or_text_are_refused(client: Client) -> None:
    for fields in (
        {},
        {"text": "a"},
        {"image0": "img1"},
        {"text": " ", "image0": "img1"},
        {"text": "a", "image0": " "},
    ):
        assert error(post(client, **fields)) == (400, "choose a picture and type a text")
    assert error(client.post("/ask", data=b"nonsense", content_type="multipart/form-data"))[0] == 400
    assert error(client.post("/ask", data={"text": "a", "image0": "img1"}))[0] == 415
    assert client.get("/ask").status_code == 405


def test_an_error_of_the_run_is_shown_as_it_is(client: Client) -> None:
    assert error(post(client, text="a", image0="nowhere")) == (400, "image 'nowhere' has no region features")


def test_other_sites_cannot_ask(client: Client, run: Any) -> None:
    assert error(post(client, text="a", image0="img1", headers={"Origin": "http://evil.example"}))[0] == 403
    assert client.get("/about", headers={"Host": "evil.example"}).status_code == 400
    assert not run.asked
    assert post(client, text="a", image0="img1", headers={"Origin": "http://localhost"}).status_code == 200


def test_pictures_of_the_folder_are_shown_and_no_others(client: Client, pictures: Path) -> None:
    response = client.get("/picture?id=img1")
    assert (response.status_code, response.mimetype) == (200, "image/jpeg")
    with Image.open(io.BytesIO(response.data)) as shown:
        assert shown.size == (WIDTH, HEIGHT)
    (pictures.parent / "secret.jpg").write_bytes(picture("JPEG"))
    for name in ("img2", "../secret", str(pictures.parent / "secret.jpg"), ""):
        assert client.get("/picture", query_string={"id": name}).status_code == 404


def test_a_port_that_is_taken_and_a_folder_that_is_missing_are_usage_errors(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vlrun.runs.ask.load_run", lambda *args, **options: run)
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot listen there"):
            serve_command.run(parser.parse_args(["run", "--port", str(taken.getsockname()[1])]))
    with pytest.raises(UsageError, match="there is no such folder"):
        serve_command.run(parser.parse_args(["run", "--pictures", os.devnull]))
    assert parser.parse_args(["run"]).host == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_page_is_served_with_what_the_verb_was_told(
    host: str, run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Eyes:
        def describe(self) -> str:
            return "other eyes"

    class Reader:
        detector = Eyes()

    class Server:
        port = 7

        def serve_forever(self) -> None:
            raise KeyboardInterrupt

        def server_close(self) -> None:
            served.append("closed")

    def make_server(*given: Any, **options: Any) -> Server:
        served.extend([*given, options])
        return Server()

    served: list[Any] = []
    monkeypatch.setattr("vlrun.runs.ask.load_run", lambda *args, **options: run)
    monkeypatch.setattr("werkzeug.serving.make_server", make_server)
    monkeypatch.setattr(serve_command, "photograph_reader", lambda arguments: Reader())
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    assert serve_command.run(parser.parse_args(["run", "--host", host])) == 0
    at, port, page, options, closed = served
    assert (at, port, options["threaded"], closed) == (host, 8000, True, "closed")
    assert options["request_handler"].timeout == serve_command.IDLE_SECONDS
    assert page.note == "photographs have features of other eyes"
    assert (page.trusted_hosts is None) == (host == "0.0.0.0")
    assert capsys.readouterr().out.startswith(f"http://{host}:7")

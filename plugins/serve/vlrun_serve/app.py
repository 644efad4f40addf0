"""The web application: one page, and the few addresses that it asks."""

from __future__ import annotations

import io
import json
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, NotFound, UnsupportedMediaType
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from vlrun import DataError, RegionFeatures, RunnerError, UsageError, canonical_image_id
from vlrun.blocks.pictures import MAX_PIXELS, open_picture, pictures_in

if TYPE_CHECKING:
    from vlrun import LoadedRun

MAX_UPLOAD_BYTES = 20 * 2**20
"""Of a whole request, with all its pictures."""

MAX_POOL = 1000
"""Pictures of the folder that may compete for one text; a base-size model takes tens of milliseconds for each."""

MAX_QUESTION_PIXELS = 4 * MAX_PIXELS
"""Of all pictures that are sent with one question, decoded."""

_MAX_TEXT_BYTES = 2**16
_MAX_PARTS = 256
_SUGGESTIONS = 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}


class _Upload(Request):
    """A request within bounds; werkzeug refuses what is beyond them with 413."""

    max_content_length = MAX_UPLOAD_BYTES
    max_form_memory_size = _MAX_TEXT_BYTES
    max_form_parts = _MAX_PARTS


class AskPage:
    """A WSGI application. One question is answered at a time; the model is used by one thread.

    Pictures that are sent are decoded in memory, or in a temporary file of the system's, and what the detector reads
    lies in a temporary folder under a name of ours. No name that a browser sends becomes a path.
    """

    def __init__(
        self,
        run: LoadedRun,
        pictures: Path | None = None,
        *,
        trusted_hosts: Sequence[str] | None = None,
        note: str | None = None,
    ) -> None:
        """Puts the page of a run together.

        Args:
            pictures: folder with pictures that are named by their image ids, to be shown.
            trusted_hosts: names under which the page may be asked for, so that no other site reaches it through a name
                that leads here; None: any.
            note: a remark to be shown.
        """
        self.run = run
        self.pictures = {canonical_image_id(path.name): path for path in pictures_in(pictures)} if pictures else {}
        self.ids = list(run.image_ids())
        self.trusted_hosts = list(trusted_hosts) if trusted_hosts is not None else None
        self.note = note
        stored = set(self.ids)
        pool = [name for name in self.pictures if name in stored] if run.asked_images is None else []
        self.pool = pool if 1 < len(pool) <= MAX_POOL else []
        self._asking, self._decoding = Lock(), Lock()  # one picture at a time is decoded, which bounds the memory
        rules = [Rule(f"/{name.replace('page.html', '')}", endpoint="file", defaults={"name": name}) for name in _TYPES]
        self._map = Map(
            [
                *rules,
                Rule("/about", endpoint="about"),
                Rule("/images", endpoint="images"),
                Rule("/picture", endpoint="picture"),
                Rule("/ask", endpoint="ask", methods=["POST"]),
            ]
        )

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        request = _Upload(environ)
        request.trusted_hosts = self.trusted_hosts
        try:
            request.host  # noqa: B018 - raises where it is not to be trusted
            endpoint, values = self._map.bind_to_environ(environ).match()
            response: Response = getattr(self, f"_{endpoint}")(request, **values)
        except HTTPException as error:
            response = _json({"error": error.description or error.name}, error.code or 500)
        except RunnerError as error:
            response = _json({"error": str(error)}, 400)
        except Exception:  # a question must not end the server, whatever it does to it
            environ["wsgi.errors"].write(traceback.format_exc())
            response = _json({"error": "this question hit a fault of the program; the terminal shows it"}, 500)
        response.headers.extend(_HEADERS)
        return response(environ, start_response)

    def _file(self, request: Request, name: str) -> Response:
        content = files("vlrun_serve").joinpath(name).read_text(encoding="utf-8")
        return Response(content, content_type=f"{_TYPES[name]}; charset=utf-8")

    def _about(self, request: Request) -> Response:
        return _json(
            {
                "task": self.run.name,
                "checkpoint": self.run.checkpoint,
                "images": self.run.asked_images,
                "texts": self.run.asked_texts,
                "stored": len(self.ids),
                "pool": len(self.pool),
                "detector": self.run.detector is not None,
                "reads_pictures": self.run.reads_pictures,
                "note": self.note,
                "max_upload_bytes": MAX_UPLOAD_BYTES,
            }
        )

    def _images(self, request: Request) -> Response:
        """The first ids with what was typed in them."""
        part = request.args.get("like", "").lower()
        found = (image_id for image_id in self.ids if part in image_id.lower())
        return _json([image_id for image_id, _ in zip(found, range(_SUGGESTIONS), strict=False)])

    def _picture(self, request: Request) -> Response:
        """The picture of an image id, encoded anew, so that nothing else in the file reaches the browser."""
        path = self.pictures.get(canonical_image_id(request.args.get("id", "")))
        if path is None:
            raise NotFound("there is no picture of this image; --pictures FOLDER names where they are")
        stream = io.BytesIO()
        with self._decoding:
            open_picture(path, path.name).save(stream, "JPEG", quality=90)
        return Response(stream.getvalue(), content_type="image/jpeg")

    def _ask(self, request: Request) -> Response:
        """Answers; the form has ``text`` fields, and ``image0``, ``image1``, ...: ids or files, or ``pool``."""
        _refuse_other_pages(request)
        if request.mimetype != "multipart/form-data":  # in other forms werkzeug does not bound the texts
            raise UnsupportedMediaType("send the question as multipart/form-data")
        texts = [text.strip() for text in request.form.getlist("text") if text.strip()]
        fields = [request.form.get(key) or request.files.get(key) for key in map("image{}".format, range(_MAX_PARTS))]
        given = [field for field in fields if (field.strip() if isinstance(field, str) else field)]
        if "pool" in request.form:
            if not self.pool:
                raise BadRequest(f"there is no folder of 2 to {MAX_POOL:,} stored pictures to choose from")
            given += self.pool
        if not texts or not given:
            raise BadRequest("choose a picture and type a text")
        with tempfile.TemporaryDirectory(prefix="vlrun-serve-") as folder:
            images: list[str | RegionFeatures | Path] = []
            names: dict[Path, str] = {}
            pixels = MAX_QUESTION_PIXELS
            for number, field in enumerate(given):
                if isinstance(field, str):
                    images.append(field.strip())
                    continue
                stem = f"picture {number + 1}" if self.run.reads_pictures else f"{number}"
                place, name = Path(folder, f"{stem}.png"), field.filename or "picture"
                image, used = self._sent(field.stream, name, place, pixels)
                pixels -= used
                images.append(image)
                names[place] = name
            with self._asking:
                if not self.run.reads_pictures:
                    images = [self._detected(each, names[each]) if isinstance(each, Path) else each for each in images]
                return _json(self.run.ask(texts, images, attention=True).as_json())

    def _detected(self, place: Path, name: str) -> RegionFeatures:
        assert self.run.detector is not None, "pictures are written for a detector alone"
        return replace(self.run.detector(place), image_id=f"{name} ({place.stem})")

    def _sent(self, stream: Any, name: str, place: Path, pixels: int) -> tuple[RegionFeatures | Path, int]:
        """A picture that was sent, written anew for a detector or a model that sees it, or the stored image of its name
        and size.

        Returns:
            It, and how many pixels it has, of which ``pixels`` are allowed.

        Raises:
            DataError: it is no picture, or without a detector nothing is known of it.
        """
        with self._decoding:
            picture = open_picture(stream, name, min(MAX_PIXELS, pixels))
            size = picture.size
            if self.run.detector is not None or self.run.reads_pictures:
                picture.save(place, compress_level=1)
                return place, size[0] * size[1]
        image_id = canonical_image_id(name)
        known = self.run.features(image_id) if image_id in self.ids else None
        if known is None:
            raise UsageError(
                f"{name}: no stored image has this name, and to find the regions of a photograph the page takes a "
                "detector (runner serve --detector NAME, of the plugin 'detector'); choose an image by its id"
            )
        if (known.width, known.height) != size:
            raise DataError(
                f"{name}: it is {size[0]} x {size[1]} pixels, the stored image of this name is "
                f"{known.width} x {known.height}; it must be another picture, or scaled"
            )
        return known, size[0] * size[1]


def _refuse_other_pages(request: Request) -> None:
    """Refuses what a page of another site makes a browser send; browsers say so, and other programs say nothing.

    Raises:
        Forbidden: it comes from elsewhere.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "same-origin")
    if (origin is not None and origin.partition("://")[2] != request.host) or site not in ("same-origin", "none"):
        raise Forbidden("questions are taken from this page alone")


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, content_type="application/json")

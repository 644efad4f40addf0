"""Questions to the page as a browser sends them, and pictures of the size of the stored images."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from werkzeug.test import Client, TestResponse

WIDTH, HEIGHT = 200, 100
"""Of every stored image."""


def picture(kind: str = "PNG", size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A file with a red picture."""
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, kind)
    return stream.getvalue()


def post(client: Client, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    """Asks; a field that is a tuple is a file: its content and its name."""
    data = {
        name: (io.BytesIO(value[0]), value[1]) if isinstance(value, tuple) else value for name, value in fields.items()
    }
    return client.post("/ask", data=data, headers=headers, content_type="multipart/form-data")

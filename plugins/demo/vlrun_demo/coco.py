"""What all annotation files of COCO have in common: a header, and a row for each image."""

from __future__ import annotations

from typing import Any

from vlrun import DemoImage


def coco_header(dataset: str, year: int) -> dict[str, Any]:
    """Describes the file, and says that it is none of the real ``dataset``."""
    return {
        "info": {
            "description": f"Generated data in the format of {dataset}; no part of the real dataset",
            "version": "1.0",
            "year": year,
            "contributor": "vlrun-demo",
            "date_created": f"{year}-01-01 00:00:00",
        },
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
    }


def coco_image(image: DemoImage, year: int) -> dict[str, Any]:
    """Describes one image: its id, file name and size."""
    return {
        "license": 1,
        "file_name": image.file_name,
        "height": image.height,
        "width": image.width,
        "date_captured": f"{year}-01-01 00:00:00",
        "id": image.number,
    }

"""What a text attends to: told and drawn where the backbone shows it, and missed in one line where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world as toy
from PIL import Image
from toy_world import ToyBackbone, image_features

from vlrun import BackboneOutput, Encoding, load_run
from vlrun.blocks.attention import attend
from vlrun.cli import main
from vlrun.plugins.manager import Plugins


def ask(folder: Path, *arguments: str | Path) -> int:
    return main(["ask", str(folder), *map(str, arguments)])


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy backbone attends to regions, by their first feature."""
    forward = ToyBackbone.forward

    def attending(backbone: ToyBackbone, encoding: Encoding) -> BackboneOutput:
        key = encoding.region_features.float()[:, None]  # one head
        query = torch.eye(1, key.shape[-1]).expand(len(key), 1, 1, -1)
        attend(query, key, key, encoding.region_mask[:, None, None], shows_regions=True)
        return forward(backbone, encoding)

    monkeypatch.setattr(ToyBackbone, "forward", attending)


def test_attention_is_told_where_the_backbone_shows_it(
    installed: Path, plugins: Plugins, looking: None, alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_run(installed, plugins=plugins)
    assert loaded.ask("text 1", "img1").attention == ()
    answer = loaded.ask("text 1", "img1", attention=True)
    (shown,) = answer.attention
    stored = image_features(1)
    expected = (torch.from_numpy(stored.features[:, 0]).float() / toy.WIDTH**0.5).softmax(0)
    assert shown.shares == pytest.approx(expected.tolist(), abs=1e-6)
    assert np.allclose(shown.boxes, stored.boxes)
    assert (shown.text, shown.image_id, shown.words) == ("text 1", "img1", ())
    assert answer.choices == loaded.ask("text 1", "img1").choices

    question = ["--text", "text 1", "--image-id", "img1", "--attention"]
    assert ask(installed, *question, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["attention"]
    assert told == {
        "text": "text 1",
        "image": "img1",
        "boxes": [list(box) for box in shown.boxes],
        "shares": list(shown.shares),
        "words": [],
    }
    Image.new("RGB", (100, 100), "black").save(tmp_path / "img1.png")
    assert ask(installed, *question, "--draw", tmp_path / "out.png", "--picture", tmp_path / "img1.png") == 0
    best = int(expected.argmax())
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"attention to img1: region {best} {expected.max():.3f}")
    x1, y1, x2, y2 = shown.boxes[best]
    with Image.open(tmp_path / "out.png") as drawn:
        red, green, blue = drawn.getpixel((int(x1 + x2) // 2, int(y1 + y2) // 2))  # type: ignore[misc]
        assert red > green > 100 > blue, "yellow"
        assert drawn.getpixel((99, 0)) == (0, 0, 0)


def test_attention_that_a_backbone_does_not_show_is_missed_in_one_line(
    installed: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(installed, "--text", "text 1", "--image-id", "img1", "--attention", "--json") == 0
    captured = capsys.readouterr()
    assert "attention" not in json.loads(captured.out)
    assert captured.err == "note: backbone 'toy' does not show what it attends to\n"

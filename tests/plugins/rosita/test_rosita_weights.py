"""Imported ROSITA weights record their network, can be checked, and are written with our names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vlrun.cli import main
from vlrun.engine.weight_files import read_imported
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import Rosita


def authors_file(network: Rosita, path: Path) -> Path:
    """The network as its authors save it: a dict of sub-modules."""
    content: dict[str, Any] = {}
    for name, tensor in network.state_dict().items():
        module, _, rest = name.partition(".")
        content.setdefault(module, {})[rest] = tensor
    torch.save({**content, "epoch": 3}, path)
    return path


@pytest.fixture
def imported(make_rosita: Any, tmp_path: Path) -> Path:
    source = authors_file(make_rosita(hidden_size=128, num_heads=4), tmp_path / "rosita-base.pkl")
    out = tmp_path / "rosita.safetensors"
    assert main(["weights", "import", "--from", "rosita", str(source), str(out), "--licence", "as agreed"]) == 0
    return out


def test_the_options_are_those_of_the_network_that_was_saved(imported: Path) -> None:
    _, facts = read_imported(imported)

    assert facts["options"] == {
        "hidden_size": 128,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_size": 16,
        "max_positions": 12,
        "region_feature_size": 6,
    }
    assert facts["licence"] == "as agreed"


def test_the_forward_pass_is_stored_and_found_again(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "check", str(imported)]) == 0
    assert capsys.readouterr().out.count("forward pass: ") == 4


def test_the_backbone_of_a_file_without_matching_head_is_checked_alone(
    make_rosita: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = make_rosita(hidden_size=128, num_heads=4)
    del network.mm_itm_head
    source, out = authors_file(network, tmp_path / "a.pkl"), tmp_path / "a.safetensors"
    assert main(["weights", "import", "--from", "rosita", str(source), str(out)]) == 0
    capsys.readouterr()

    assert main(["weights", "check", str(out)]) == 0
    assert "'matching'" not in capsys.readouterr().out


def test_it_is_written_with_our_names_alone(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "export", str(imported), str(tmp_path / "plain"), "--to", "plain"]) == 0
    assert load_file(tmp_path / "plain" / "model.safetensors").keys() == read_imported(imported)[0].keys()
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["backbone"] == "rosita"

    assert main(["weights", "export", str(imported), str(tmp_path / "hf"), "--to", "hf"]) == 2
    assert "have no layout 'hf' (they have: plain, rosita)" in capsys.readouterr().err


def test_the_inspection_does_not_print_the_numbers_of_the_check(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "inspect", str(imported)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "forward_check: stored; `runner weights check` computes it again" in lines
    assert "licence: as agreed" in lines


@pytest.mark.parametrize("size", ["base", "tiny"])
def test_the_number_of_heads_of_a_known_size_needs_no_file_to_tell_it(size: str) -> None:
    sizes = RositaConfig.known_sizes[size]

    assert RositaConfig.heads_at(sizes.hidden_size) == sizes.num_heads
    assert RositaConfig.heads_at(100) is None

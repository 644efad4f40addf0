"""A byte of a file of weights that changed is noticed whenever the file is read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_weights import TOY, ToyBackbone, toy_tensors

from vlrun.engine.weight_files import ORIGIN_KEY, import_weights, read_foreign, read_imported, write_imported
from vlrun.engine.weight_hash import CONTENT_KEY, content_hash
from vlrun.engine.weights import load_weights
from vlrun.errors import CheckpointError

FACTS = {"backbone": "toy-backbone", "vocabulary_hash": "abc"}


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    torch.save({"net": toy_tensors()}, tmp_path / "toy.pkl")
    return import_weights(tmp_path / "toy.pkl", tmp_path / "toy.safetensors", TOY).out


def test_whole_weights_are_loaded(imported: Path) -> None:
    assert load_weights(ToyBackbone(), imported).matched


def test_a_changed_bit_anywhere_is_refused_or_changes_nothing(imported: Path) -> None:
    whole, facts = imported.read_bytes(), read_imported(imported)
    generator, refused = random.Random(0), 0
    for _ in range(200):
        at = generator.randrange(len(whole))
        imported.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << generator.randrange(8)]) + whole[at + 1 :])
        try:
            tensors, _ = read_imported(imported)
        except CheckpointError:
            refused += 1
        else:  # a bit in the name of the hash itself
            assert all(torch.equal(tensor, tensors[name]) for name, tensor in facts[0].items())
    assert refused > 190


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_every_type_is_hashed(tmp_path: Path, kind: torch.dtype) -> None:
    tensors = {"a": torch.ones(3, 2).to(kind), "scalar": torch.ones((), dtype=kind), "none": torch.ones(0, dtype=kind)}
    out = write_imported(tmp_path / "a.safetensors", tensors, FACTS, ()).out
    assert read_imported(out)[1][CONTENT_KEY] == content_hash(tensors, read_imported(out)[1])
    content = out.read_bytes()
    out.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: damaged: .* by the hash in it; copy it again"):
        read_imported(out)


@pytest.mark.parametrize("change", ["name", "shape", "facts"])
def test_names_shapes_and_facts_are_hashed(change: str) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    others = {
        "name": ({"a": torch.arange(6.0), "c": torch.zeros(2)}, FACTS),
        "shape": ({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2)}, FACTS),
        "facts": (tensors, {**FACTS, "vocabulary_hash": "abd"}),
    }
    assert content_hash(tensors, FACTS) == content_hash(dict(reversed(tensors.items())), FACTS)
    assert content_hash(tensors, FACTS) != content_hash(*others[change])


def test_a_file_in_another_layout_carries_its_hash_on_the_way_back(tmp_path: Path) -> None:
    tensors, path = {"x": torch.arange(4.0)}, tmp_path / "model.safetensors"
    facts = {**FACTS, CONTENT_KEY: content_hash(tensors, FACTS)}
    save_file(tensors, path, {"format": "pt", ORIGIN_KEY: json.dumps(facts)})
    assert torch.equal(read_foreign(path)[0]["x"], load_file(path)["x"])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        read_foreign(path)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    save_file({"x": torch.arange(4.0)}, tmp_path / "a.safetensors", {"vlrun": '{"backbone": "toy-backbone"}'})
    assert read_imported(tmp_path / "a.safetensors")[1] == {"backbone": "toy-backbone"}

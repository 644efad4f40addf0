"""The authors' files come over under their own names, and fill the network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vlrun import CheckpointError
from vlrun.cli import main
from vlrun.data.leaks import find_leaks
from vlrun.engine.weight_files import import_weights, read_imported
from vlrun.engine.weights import load_weights
from vlrun_rosita.checkpoint import HEADS, MATCHING_HEAD, TRUNK, translate
from vlrun_rosita.model import Rosita
from vlrun_rosita.plugin import vlrun_weight_formats

MakeRosita = Callable[..., Rosita]
ROSITA = vlrun_weight_formats()[0]


def authors_layout(rosita: Rosita) -> dict[str, Any]:
    """The network's tensors as the authors would save them: one state dict per sub-module, and bookkeeping."""
    content: dict[str, Any] = {"epoch": 3, "net_optim": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}}
    for name, module in rosita.named_children():
        content[name] = module.state_dict()
    return content


def from_description(value: Any) -> Any:
    """An object of the kind that ``e2e.json`` describes: ``tensor float32 [2, 3]``, ``int 5``, ``bool False`` ..."""
    if isinstance(value, dict):
        return {key: from_description(item) for key, item in value.items() if key != "..."}
    if isinstance(value, list):
        return [from_description(item) for item in value]
    if value.startswith("tensor "):
        _, dtype, shape = re.split(r" (?![^\[]*\])", value)
        return torch.rand(json.loads(shape)).to(getattr(torch, dtype))
    kind, _, text = value.partition(" ")
    known = {"int": int, "float": float, "bool": "True".__eq__, "NoneType": lambda _: None}
    return known[kind](text) if kind in known else value


@pytest.mark.golden
@pytest.mark.parametrize("task", ["vqa", "rec", "itr"])
def test_a_checkpoint_in_the_authors_layout_becomes_the_names_of_the_vectors(
    golden: Path, tmp_path: Path, task: str
) -> None:
    layout = json.loads((golden / "rosita" / "e2e.json").read_text())[task]["checkpoint_layout_of_float32_run"]
    content = from_description(layout)
    torch.save(content, tmp_path / "last_ckpt.pkl")
    modules = [name for name in content if name in (*TRUNK, *HEADS)]

    report = import_weights(tmp_path / "last_ckpt.pkl", tmp_path / "out.safetensors", ROSITA)

    imported = load_file(tmp_path / "out.safetensors")
    theirs = {
        f"{HEADS.get(module, module)}.{name}": tensor for module in modules for name, tensor in content[module].items()
    }
    assert {name: tensor.tolist() for name, tensor in imported.items()} == {
        name: tensor.tolist() for name, tensor in theirs.items()
    }
    assert {entry.split()[0] for entry in report.left_behind} == set(content) - set(modules)


def test_imported_weights_fill_the_network(make_rosita: MakeRosita, tmp_path: Path) -> None:
    trained, fresh = make_rosita(), make_rosita()
    torch.save(authors_layout(trained), tmp_path / "rosita.pkl")

    import_weights(tmp_path / "rosita.pkl", tmp_path / "rosita.safetensors", ROSITA)
    report = load_weights(fresh, tmp_path / "rosita.safetensors")

    assert (report.missing, report.unexpected) == ((), ())
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize(("option", "layers"), [(3, 2), (1, 2)], ids=["more", "fewer"])
def test_weights_with_another_number_of_layers_are_refused_with_the_option_to_set(
    make_rosita: MakeRosita, tmp_path: Path, option: int, layers: int
) -> None:
    fresh = make_rosita(num_layers=layers)
    torch.save(authors_layout(make_rosita(num_layers=option)), tmp_path / "rosita.pkl")
    import_weights(tmp_path / "rosita.pkl", tmp_path / "rosita.safetensors", ROSITA)

    with pytest.raises(CheckpointError) as caught:
        load_weights(fresh, tmp_path / "rosita.safetensors")

    remedy = f"'backbone.layers': {option} in the file, {layers} in the backbone; set backbone.num_layers={option}"
    assert remedy in str(caught.value)


def test_heads_of_pre_training_are_left_out(make_rosita: MakeRosita, tmp_path: Path) -> None:
    heads = {name: {"weight": torch.ones(2)} for name in HEADS if name != MATCHING_HEAD}
    torch.save({**authors_layout(make_rosita()), **heads}, tmp_path / "rosita.pkl")
    import_weights(tmp_path / "rosita.pkl", tmp_path / "rosita.safetensors", ROSITA)

    report = load_weights(make_rosita(), tmp_path / "rosita.safetensors")

    assert {name.split(".")[0] for name in report.unused} == {HEADS[name] for name in heads}


def test_weights_without_visual_embeddings_stop(make_rosita: MakeRosita, tmp_path: Path) -> None:
    content = authors_layout(make_rosita())
    del content["visual_embeddings"]  # as in the authors' bert-base.pkl
    torch.save(content, tmp_path / "bert.pkl")
    import_weights(tmp_path / "bert.pkl", tmp_path / "bert.safetensors", ROSITA)

    with pytest.raises(CheckpointError, match="only 39 of the backbone's 45 tensors"):
        load_weights(make_rosita(), tmp_path / "bert.safetensors")


def test_an_unknown_module_is_left_behind_and_named(make_rosita: MakeRosita, tmp_path: Path) -> None:
    torch.save({**authors_layout(make_rosita()), "mystery": {"weight": torch.ones(2)}}, tmp_path / "rosita.pkl")

    report = import_weights(tmp_path / "rosita.pkl", tmp_path / "rosita.safetensors", ROSITA)

    assert "mystery (1 of 1 tensors)" in report.left_behind


@pytest.mark.parametrize(("word_table", "is_kept"), [(torch.ones(4, 2), False), (torch.zeros(4, 2), True)])
def test_a_tied_word_table_is_kept_only_where_it_differs(word_table: Tensor, is_kept: bool) -> None:
    content = {
        "text_embeddings": {"word_embeddings.weight": torch.ones(4, 2)},
        "text_mlm_head": {"decode.weight": word_table, "bias": torch.ones(4)},
    }

    tensors = translate(content)

    assert ("word_head.decoder.weight" in tensors) is is_kept
    assert "word_head.bias" in tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "expected the keys text_embeddings, visual_embeddings, backbone, pooler; found model"),
        ({"mm_itm_head": {"dense.bias": torch.ones(2)}}, "expected the keys .*; found mm_itm_head"),
        ({"backbone": torch.ones(2)}, "'backbone' holds no tensors by name"),
        ({"backbone": {"layers": [torch.ones(2)]}}, "'backbone' holds no tensors by name"),
    ],
)
def test_other_layouts_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"not a ROSITA checkpoint: {message}"):
        translate(content)


def test_the_command_imports_and_inspects(
    make_rosita: MakeRosita, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rosita = make_rosita()
    torch.save(authors_layout(rosita), tmp_path / "rosita.pkl")
    source, out = tmp_path / "rosita.pkl", tmp_path / "rosita.safetensors"
    vocabulary = next(tmp_path.glob("vocabulary_*.txt"))

    found = main(["weights", "inspect", str(source)])
    imported = main(["weights", "import", "--from", "rosita", str(source), str(out), "--vocabulary", str(vocabulary)])

    printed = capsys.readouterr().out
    assert (found, imported) == (0, 0)
    assert "formats that read it: rosita" in printed
    assert "left behind: net_optim (1 of 1 tensors)" in printed
    assert load_weights(rosita, out).metadata["vocabulary_hash"] == rosita.vocabulary_hash


def test_an_import_records_the_images_that_rosita_may_have_seen(make_rosita: MakeRosita, tmp_path: Path) -> None:
    torch.save(authors_layout(make_rosita()), tmp_path / "rosita.pkl")
    import_weights(tmp_path / "rosita.pkl", tmp_path / "rosita.safetensors", ROSITA)
    declared = read_imported(tmp_path / "rosita.safetensors", header_only=True)[1]["pretraining_sets"]
    coco = [f"COCO_{part}_{number:012d}" for number, part in enumerate(("train2014", "val2014", "test2015"), 1)]
    (leak,) = find_leaks({}, {("vqa", "minival"): [*coco, "visual-genome:7", "dev-1-0-img0"]}, declared)
    assert (dict(leak.seen), list(leak.possibly.values())) == ({}, [3])

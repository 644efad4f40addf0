"""The public layouts of weights are read, strictly, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from vlrun import CheckpointError, read_weights
from vlrun.cli import main
from vlrun_detector.anchors import caffe_anchors
from vlrun_detector.caffemodel import _net_parameter, read_caffemodel, translate_caffemodel
from vlrun_detector.config import BottomUpConfig
from vlrun_detector.detector import BottomUp
from vlrun_detector.network import FULL, Network, Sizes, expected_shapes
from vlrun_detector.weights import ANCHORS, OWNER, read_pickled, translate_caffe, translate_hf


@pytest.fixture(scope="module")
def keymap(golden: Path) -> dict:
    return json.loads((golden / "detector" / "keymap.json").read_text())


@pytest.mark.golden
def test_the_full_network_has_the_tensors_of_the_published_files(keymap) -> None:
    rows = [row for row in keymap["caffe_mode_to_hf"] if not row[0].endswith("num_batches_tracked")]
    assert {name: list(shape) for name, shape in expected_shapes(FULL).items()} == {row[0]: row[1] for row in rows}
    with torch.device("meta"):
        theirs = {row[2]: torch.empty(row[3]) for row in rows}
        counters = {name: torch.empty(shape) for name, shape in keymap["only_in_hf"]}
        ours = {row[0]: torch.empty(row[1]) for row in rows}
    assert {name: tuple(tensor.shape) for name, tensor in translate_hf({**theirs, **counters}).items()} == (
        expected_shapes(FULL)
    )
    assert translate_caffe({"model": ours}).keys() == expected_shapes(FULL).keys()
    assert Sizes.of(ours) == FULL


@pytest.mark.golden
@pytest.mark.parametrize("name", ["caffe_model", "hf_model"])
def test_imported_weights_say_where_they_are_from(name: str, weights, capsys) -> None:
    path = weights(name)
    state, metadata = read_weights(path)
    assert metadata["backbone"] == OWNER
    assert metadata["source"] == f"{name}.pth"
    assert len(metadata["source_sha256"]) == 64
    assert Network.load(state, state[ANCHORS]).sizes.classes == 40
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["left_behind"] == []


@pytest.mark.golden
def test_a_file_of_the_other_layout_is_refused_with_its_name(state) -> None:
    with pytest.raises(CheckpointError, match="--from bottom-up-hf reads such files"):
        translate_caffe(state("hf_model"))
    with pytest.raises(CheckpointError, match="is it for --from bottom-up-caffe"):
        translate_hf({"model": state("caffe_model")})


@pytest.mark.golden
def test_what_is_missing_strange_or_of_another_shape_is_named(state) -> None:
    given = dict(state("caffe_model"))
    del given["backbone.res2.0.conv1.norm.running_var"]
    given["roi_heads.mask_head.weight"] = torch.zeros(1)
    given["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        translate_caffe(given)
    assert caught.value.problems == [
        "backbone.res2.0.conv1.norm.running_var is missing",
        "roi_heads.mask_head.weight does not belong there",
        "roi_heads.box_predictor.cls_score.bias has shape (7,), expected (41,)",
    ]
    with pytest.raises(CheckpointError, match=r"no bottom-up-attention detector: .* is missing"):
        translate_caffe({"embeddings.weight": torch.zeros(2, 2)})


def test_a_pickle_that_would_run_code_is_not_read(tmp_path: Path, capsys) -> None:
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Harmful()}, tmp_path / "file.pth")
    out = tmp_path / "out.safetensors"
    assert main(["weights", "import", "--from", "bottom-up-caffe", str(tmp_path / "file.pth"), str(out)]) == 6
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not out.exists()


@pytest.mark.golden
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_arrays_gives_the_network_of_hugging_faces_file(state, protocol: int, tmp_path: Path) -> None:
    given = {name: tensor.numpy() for name, tensor in state("hf_model").items()}
    content = {"model": given, "__author__": "Caffe", "matching_heuristics": True}
    (tmp_path / "attr.pkl").write_bytes(pickle.dumps(content, protocol))
    out = tmp_path / "out.safetensors"
    assert main(["weights", "import", "--from", "bottom-up-pkl", str(tmp_path / "attr.pkl"), str(out)]) == 0
    found, metadata = read_weights(out)
    assert metadata["backbone"] == OWNER
    for name, tensor in translate_hf(state("hf_model")).items():
        assert torch.equal(found[name], tensor), name


def test_a_pickle_of_anything_else_is_refused(tmp_path: Path) -> None:
    for content, message in (
        (pickle.dumps({"model": {"a": os.system}}), r"refused: loading it would use posix\.system"),
        (pickle.dumps([1, 2]), "it has no 'model'"),
        (b"\x80\x04nothing", "damaged pickle"),
    ):
        (tmp_path / "file.pkl").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"file.pkl: {message}"):
            read_pickled(tmp_path / "file.pkl")
    with pytest.raises(CheckpointError, match="No such file"):
        read_pickled(tmp_path / "absent.pkl")


@pytest.mark.golden
def test_strange_anchors_are_refused_unless_told(state, tmp_path: Path) -> None:
    given = {**state("caffe_model"), ANCHORS: caffe_anchors() / 4}
    torch.save(given, tmp_path / "file.pth")
    out = tmp_path / "out.safetensors"
    assert main(["weights", "import", "--from", "bottom-up-caffe", str(tmp_path / "file.pth"), str(out)]) == 0
    with pytest.raises(CheckpointError, match="anchors are neither those of the Caffe original"):
        BottomUp.caffe(BottomUpConfig(name="bottom-up", weights=out, device="cpu"))
    detector = BottomUp.caffe(BottomUpConfig(name="bottom-up", weights=out, device="cpu", anchors="any"))
    assert "anchors of its own" in detector.describe()


@pytest.mark.golden
def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds no weights of a bottom-up detector"):
        BottomUp.caffe(BottomUpConfig(name="bottom-up", weights=tmp_path / "other.safetensors", device="cpu"))


CAFFE_LAYERS = {
    "proposal_generator.rpn_head.conv": "rpn_conv/3x3",
    "proposal_generator.rpn_head.objectness_logits": "rpn_cls_score",
    "proposal_generator.rpn_head.anchor_deltas": "rpn_bbox_pred",
    "roi_heads.box_predictor.cls_score": "cls_score",
    "roi_heads.box_predictor.bbox_pred": "bbox_pred",
    "roi_heads.box_predictor.cls_embed": "cls_embedding",
    "roi_heads.box_predictor.attr_linear1": "fc_attr",
    "roi_heads.box_predictor.attr_linear2": "attr_score",
}


def write_caffemodel(path: Path, state: dict[str, torch.Tensor], factor: float, old: bool) -> None:
    """``state`` as Caffe writes a network: a layer per step, statistics times ``factor``."""
    message = _net_parameter()()
    last = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}

    def add(name: str, *tensors: torch.Tensor) -> None:
        layer = message.layers.add(name=name) if old else message.layer.add(name=name)
        for tensor in tensors:
            blob = layer.blobs.add(data=tensor.flatten().tolist())
            if old:
                sizes = [1] * (4 - tensor.dim()) + list(tensor.shape)
                blob.num, blob.channels, blob.height, blob.width = sizes
            else:
                blob.shape.dim.extend(tensor.shape)

    add("data")
    for name, tensor in state.items():
        owner, _, kind = name.rpartition(".")
        if owner in CAFFE_LAYERS and kind == "weight":
            bias = state.get(f"{owner}.bias")
            add(CAFFE_LAYERS[owner], tensor, *([] if bias is None else [bias]))
        elif f"{owner}.norm.weight" in state:
            *_, stage, block, conv = owner.split(".")
            letter = (
                chr(ord("a") + int(block)) if block.isdigit() and (stage != "res4" or block == "0") else f"b{block}"
            )
            place = "conv1" if stage == "stem" or block == "stem" else f"{stage[3:]}{letter}_branch{last[conv]}"
            mean, variance, gain, bias = (
                state[f"{owner}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            add("conv1" if place == "conv1" else f"res{place}", tensor)
            separator = "_" if place == "conv1" else ""
            add(f"bn{separator}{place}", mean * factor, variance * factor, torch.tensor([factor]))
            add(f"scale{separator}{place}", gain, bias)
    path.write_bytes(message.SerializeToString())


@pytest.mark.golden
@pytest.mark.parametrize("old", [False, True])
def test_the_caffemodel_itself_gives_the_same_network(state, tmp_path: Path, old: bool) -> None:
    given = state("caffe_model")
    write_caffemodel(tmp_path / "net.caffemodel", given, factor=4.0, old=old)
    out = tmp_path / "out.safetensors"
    command = ["weights", "import", "--from", "bottom-up-caffemodel", str(tmp_path / "net.caffemodel"), str(out)]
    assert main(command) == 0
    found, metadata = read_weights(out)
    assert metadata["backbone"] == OWNER
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert torch.equal(found[name], tensor), name


def test_a_damaged_caffemodel_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "net.caffemodel").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="no caffemodel, or damaged"):
        read_caffemodel(tmp_path / "net.caffemodel")
    with pytest.raises(CheckpointError, match="No such file"):
        read_caffemodel(tmp_path / "absent.caffemodel")
    (tmp_path / "empty.caffemodel").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is missing"):
        translate_caffemodel(read_caffemodel(tmp_path / "empty.caffemodel"))

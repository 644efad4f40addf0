"""Weights come in once, safely, and are loaded all or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from toy_weights import MATCHING, TOY, ToyBackbone, toy_tensors

from vlrun import FeatureOrigin
from vlrun.cli import main
from vlrun.engine.weight_files import import_weights
from vlrun.engine.weight_summary import inspect_weights
from vlrun.engine.weights import HeadSlot, load_weights
from vlrun.errors import CheckpointError
from vlrun.plugins.entries import WeightFormat
from vlrun.plugins.manager import Plugins


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the authors of the toy would have published."""
    path = tmp_path / "toy.pkl"
    moments = {"state": {0: {"exp_avg": torch.zeros(3), "step": 7}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"net": toy_tensors(), "optimizer": moments, "epoch": 4}, path)
    return path


def test_every_tensor_is_loaded_and_counted(save: Any) -> None:
    backbone = ToyBackbone()

    report = load_weights(backbone, save(toy_tensors(), backbone="toy-backbone"))

    assert backbone.layers[150].item() == 150.0
    assert (len(report.matched), report.missing, report.unexpected) == (201, MATCHING, ())
    assert report.metadata == {"backbone": "toy-backbone"}


def test_weights_of_another_float_type_are_cast(save: Any) -> None:
    backbone = ToyBackbone().double()

    load_weights(backbone, save({name: tensor.half() for name, tensor in toy_tensors().items()}))

    assert backbone.layers[150].dtype is torch.float64
    assert backbone.layers[150].item() == 150.0


@pytest.mark.parametrize("prefix", ["module.", "bert."])
def test_a_wrong_prefix_stops_and_loads_nothing(save: Any, prefix: str) -> None:
    backbone = ToyBackbone()
    path = save({f"{prefix}{name}": tensor for name, tensor in toy_tensors().items()})

    with pytest.raises(CheckpointError, match="only 0 of the backbone's 201 tensors") as caught:
        load_weights(backbone, path)

    assert f"The file has, for example, '{prefix}layers.0', the backbone 'layers.0'" in str(caught.value)
    assert not any(parameter.any() for parameter in backbone.layers)


def test_under_99_percent_stops(save: Any) -> None:
    backbone = ToyBackbone()

    with pytest.raises(CheckpointError, match="only 198 of the backbone's 201 tensors"):
        load_weights(backbone, save(toy_tensors(layers__1=None, layers__2=None, layers__3=None)))

    assert not any(parameter.any() for parameter in backbone.layers)


def test_over_99_percent_loads_and_names_what_is_missing(save: Any) -> None:
    backbone = ToyBackbone()

    report = load_weights(backbone, save(toy_tensors(layers__1=None, layers__2=None)))

    assert report.missing == ("layers.1", "layers.2", *MATCHING)
    assert backbone.layers[3].item() == 3.0


def test_another_shape_stops_and_gives_both(save: Any) -> None:
    backbone = ToyBackbone()

    with pytest.raises(CheckpointError, match=r"'pooler.weight' has shape \(2, 3\), the model needs \(3, 2\)"):
        load_weights(backbone, save(toy_tensors(pooler__weight=torch.ones(2, 3))))

    assert not any(parameter.any() for parameter in backbone.layers)


@pytest.mark.parametrize("made_for", ["abc", ""], ids=["same vocabulary", "not recorded"])
def test_weights_for_this_vocabulary_are_loaded(save: Any, made_for: str) -> None:
    backbone = ToyBackbone()
    load_weights(backbone, save(toy_tensors(), vocabulary_hash=made_for))
    assert backbone.layers[150].item() == 150.0


def test_weights_for_another_vocabulary_stop(save: Any) -> None:
    with pytest.raises(CheckpointError, match="made for vocabulary xyz, this backbone has abc"):
        load_weights(ToyBackbone(), save(toy_tensors(), vocabulary_hash="xyz"))


def test_the_matching_head_is_filled_whether_or_not_somebody_has_asked_for_it(save: Any) -> None:
    backbone = ToyBackbone()
    held = {"matching__weight": torch.ones(2, 1), "matching__bias": torch.ones(2)}

    report = load_weights(backbone, save(toy_tensors(**held)))

    assert report.missing == ()
    assert backbone.matching_head().weight.tolist() == [[1.0], [1.0]]


def test_a_matching_head_that_the_file_lacks_is_reported_and_no_error(save: Any) -> None:
    report = load_weights(ToyBackbone(), save(toy_tensors()))

    assert report.missing == MATCHING


def test_a_head_is_filled_under_its_name(save: Any) -> None:
    head = nn.Linear(1, 2)
    held = {"answers__weight": torch.ones(2, 1), "answers__bias": torch.ones(2)}

    report = load_weights(ToyBackbone(), save(toy_tensors(**held)), heads=[HeadSlot("answers", head)])

    assert head.bias.tolist() == [1.0, 1.0]
    assert not report.unexpected


def test_the_report_counts_by_module(save: Any) -> None:
    path = save(toy_tensors(layers__1=None, answers__bias=torch.ones(2)))
    report = load_weights(ToyBackbone(), path, heads=[HeadSlot("boxes", nn.Linear(1, 1))])

    table = [line.split() for line in report.lines()]
    assert table == [
        ["module", "matched", "missing", "unused"],
        ["--------", "-------", "-------", "------"],
        ["layers", "199", "1", "0"],
        ["pooler", "1", "0", "0"],
        ["matching", "0", "2", "0"],
        ["boxes", "0", "2", "0"],
        ["answers", "0", "0", "1"],
        ["total", "200", "5", "1"],
        ["boxes:", "not", "in", "the", "file;", "it", "starts", "from", "random", "weights"],
    ]


def test_an_import_writes_tensors_header_and_manifest(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights" / "toy.safetensors"

    report = import_weights(source, out, TOY, vocabulary_hash="abc", pretraining_sets=["coco:train"])

    assert load_weights(ToyBackbone(), out).missing == MATCHING
    with safe_open(out, framework="pt") as file:
        header = json.loads(file.metadata()["vlrun"])
    manifest = json.loads(report.manifest.read_text())
    assert report.manifest == tmp_path / "weights" / "toy.json"
    assert header == {name: manifest[name] for name in header}
    assert (header["backbone"], header["vocabulary_hash"]) == ("toy-backbone", "abc")
    assert header["pretraining_sets"] == ["coco:train"]
    assert len(manifest["sha256"]) == len(manifest["source_sha256"]) == 64
    assert (manifest["tensors"], manifest["parameters"]) == (201, 206)
    assert manifest["modules"] == {"layers": 200, "pooler": 1}


def test_what_an_import_leaves_behind_is_said(source: Path, tmp_path: Path) -> None:
    report = import_weights(source, tmp_path / "toy.safetensors", TOY)

    assert report.left_behind == ("optimizer (1 of 1 tensors)", "epoch")


def test_what_a_file_of_tensors_leaves_behind_is_said_by_layer(tmp_path: Path) -> None:
    table = torch.arange(6.0).view(3, 2)
    content = {f"net.{place}.{kind}": torch.ones(2) for place in range(3) for kind in ("weight", "bias")}
    torch.save({**content, "table": table, "cls.bias": torch.ones(1), "cls.weight": torch.ones(1)}, tmp_path / "a.pkl")
    first = WeightFormat(name="first", backbone="toy", summary="", translator="toy_weights:translate_row_and_layer")

    report = import_weights(tmp_path / "a.pkl", tmp_path / "a.safetensors", first)

    assert report.left_behind == (
        "net.0 (1 of 2 tensors)",
        "net.1 (2 of 2 tensors)",
        "net.2 (2 of 2 tensors)",
        "table (all but a part of it)",
        "cls (2 of 2 tensors)",
    )


def test_the_same_import_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name / "toy.safetensors" for name in ("a", "b")]

    for out in outs:
        import_weights(source, out, TOY)

    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_tensors_that_share_memory_are_imported(tmp_path: Path) -> None:
    table = torch.arange(6.0).view(2, 3)
    torch.save({"net": {"table": table, "tied": table, "turned": table.t()}}, tmp_path / "tied.pkl")

    import_weights(tmp_path / "tied.pkl", tmp_path / "tied.safetensors", TOY)

    imported = load_file(tmp_path / "tied.safetensors")
    assert imported["tied"].tolist() == table.tolist()
    assert imported["turned"].tolist() == table.t().tolist()


class Surprise:
    """Creates a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"net": toy_tensors(), "extra": Surprise(tmp_path / "surprise")}, tmp_path / "toy.pkl")

    with pytest.raises(CheckpointError, match=r"toy\.pkl: refused, because it holds more than tensors"):
        import_weights(tmp_path / "toy.pkl", tmp_path / "toy.safetensors", TOY)

    assert not (tmp_path / "surprise").exists()
    assert not (tmp_path / "toy.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read|refused"),
        (b"hello, this is no checkpoint", "cannot be read|refused"),
        (None, "cannot be read, it may be damaged"),
    ],
    ids=["empty", "text", "truncated"],
)
def test_a_damaged_checkpoint_is_refused(source: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2] if content is None else content)

    with pytest.raises(CheckpointError, match=message):
        import_weights(source, tmp_path / "toy.safetensors", TOY)


def test_a_damaged_imported_file_is_refused(save: Any) -> None:
    path = save(toy_tensors())
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(CheckpointError, match="cannot be read, it may be damaged"):
        load_weights(ToyBackbone(), path)


def test_a_list_of_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pkl")

    with pytest.raises(CheckpointError, match="expected a dict of tensors or state dicts, found list"):
        import_weights(tmp_path / "list.pkl", tmp_path / "list.safetensors", TOY)


def test_a_checkpoint_of_another_layout_is_named(tmp_path: Path) -> None:
    torch.save({"model": toy_tensors()}, tmp_path / "other.pkl")

    with pytest.raises(CheckpointError, match=r"other\.pkl: not a toy checkpoint: no 'net'"):
        import_weights(tmp_path / "other.pkl", tmp_path / "other.safetensors", TOY)


@pytest.mark.parametrize("name", ["absent.pkl", "absent.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: there is no such file"):
        inspect_weights(tmp_path / name, {})


def test_loading_an_unconverted_checkpoint_says_how_to_convert_it(source: Path) -> None:
    with pytest.raises(CheckpointError, match=r"runner weights import --from FORMAT .*toy\.pkl .*toy\.safetensors"):
        load_weights(ToyBackbone(), source)


def test_imported_weights_must_be_called_safetensors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"toy\.bin: imported weights are a \.safetensors file"):
        import_weights(source, tmp_path / "toy.bin", TOY)


def test_inspecting_a_foreign_file_finds_its_format(source: Path) -> None:
    other = WeightFormat(name="other", backbone="other", summary="", translator="toy_weights:translate_nothing")

    summary = inspect_weights(source, {"toy": TOY, "other": other})
    assert summary.path == str(source)

    assert summary.formats == ("toy",)
    assert [(module.name, module.tensors, module.parameters) for module in summary.modules] == [
        ("net", 201, 206),
        ("optimizer", 1, 3),
    ]
    assert summary.other == {"epoch": "4"}
    assert summary.lines()[-1] == "formats that read it: toy"


def test_inspecting_an_imported_file_shows_where_it_came_from(source: Path, tmp_path: Path) -> None:
    import_weights(source, tmp_path / "toy.safetensors", TOY)

    summary = inspect_weights(tmp_path / "toy.safetensors", {"toy": TOY})

    assert summary.is_imported
    assert (summary.metadata["source"], summary.metadata["format"], summary.formats) == ("toy.pkl", "toy", ())
    assert "source: toy.pkl" in summary.lines()


def test_the_command_inspects_as_json(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["weights", "inspect", str(source), "--json"])

    printed = json.loads(capsys.readouterr().out)
    assert status == 0
    assert printed["modules"][0] == {"name": "net", "tensors": 201, "parameters": 206, "dtypes": ["float32"]}


def test_the_command_names_the_formats_that_are_installed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["weights", "import", "--from", "nonsense", str(source), str(tmp_path / "out.safetensors")])

    assert status == 4
    assert "no weight format 'nonsense' is installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ([], {"extractor": "bua-caffe", "weights": "", "boxes": "36"}),
        (["--boxes", "10-100"], {"extractor": "bua-caffe", "weights": "", "boxes": "10-100"}),
        (
            ["--extractor", "vinvl", "--extractor-weights", "sha256:1"],
            {"extractor": "vinvl", "weights": "sha256:1", "boxes": ""},
        ),
        (["--extractor", "not known"], {"extractor": "not known", "weights": "", "boxes": ""}),
    ],
    ids=["as the format says", "other boxes", "another extractor", "a remark"],
)
def test_the_command_may_say_which_features_a_file_was_trained_on(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    features: dict[str, str],
) -> None:
    known = replace(TOY, features=FeatureOrigin("bua-caffe", boxes="36"))
    monkeypatch.setattr(Plugins, "weight_formats", lambda plugins: {"toy": known})
    out = tmp_path / "toy.safetensors"
    assert main(["weights", "import", "--from", "toy", str(source), str(out), *options]) == 0
    assert json.loads(out.with_suffix(".json").read_text())["features"] == features
    assert f"trained on features of: {FeatureOrigin(**features)}" in capsys.readouterr().out


def test_a_number_of_boxes_that_is_none_is_a_wrong_use(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plugins, "weight_formats", lambda plugins: {"toy": TOY})
    command = ["weights", "import", "--from", "toy", str(source), str(tmp_path / "toy.safetensors")]
    assert main([*command, "--boxes", "many"]) == 2


def test_the_command_refuses_code_with_the_checkpoint_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"value": np.float64(1.0), "surprise": Surprise(tmp_path / "surprise")}, tmp_path / "toy.pkl")

    status = main(["weights", "inspect", str(tmp_path / "toy.pkl")])

    assert status == 6
    assert "refused" in capsys.readouterr().err


def test_two_tasks_may_start_from_the_same_head(save: Any) -> None:
    """As VQA and GQA do in a joint run: each gets its own answers of it."""
    held = {"answers__weight": torch.ones(2, 1), "answers__bias": torch.tensor([1.0, 2.0])}

    def first_only(tensors: Any, meaning: Any) -> Any:
        return {name: tensor[:1] for name, tensor in tensors.items()}, []

    whole, part = nn.Linear(1, 2), nn.Linear(1, 1)
    slots = [HeadSlot("answers", whole), HeadSlot("answers", part, first_only)]
    report = load_weights(ToyBackbone(), save(toy_tensors(**held)), heads=slots)

    assert (whole.bias.tolist(), part.bias.tolist()) == ([1.0, 2.0], [1.0])
    assert not report.mismatched

    wrong = [HeadSlot("answers", nn.Linear(1, 3)), HeadSlot("answers", part, first_only)]
    with pytest.raises(CheckpointError, match=r"'answers.weight' has shape \(2, 1\), the model needs \(3, 1\)"):
        load_weights(ToyBackbone(), save(toy_tensors(**held)), heads=wrong)

"""Weights inside the files that training programs write, beside optimiser and epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from authors_files import assert_same, authors_state, trunk_of
from safetensors.torch import load_file

from vlrun import CheckpointError
from vlrun.cli import main
from vlrun.engine.weight_files import import_weights
from vlrun_lxmert_s.model import Lxmert
from vlrun_lxmert_s.plugin import vlrun_weight_formats

MakeNetwork = Callable[..., Lxmert]
FORMATS = {weight_format.name: weight_format for weight_format in vlrun_weight_formats()}


@pytest.mark.parametrize("entry", ["model", "state_dict", "net of mine"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_weights_inside_the_file_of_a_training_program_are_found(
    make_network: MakeNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: str, wrapper: str
) -> None:
    network = make_network("lxmert")
    weights = {f"{wrapper}{name}": tensor for name, tensor in authors_state(network).items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({entry: weights, "optimizer": optimizer, "epoch": 3}, tmp_path / "source.pth")

    report = import_weights(tmp_path / "source.pth", tmp_path / "out.safetensors", FORMATS["lxmert"])

    assert_same(load_file(report.out), trunk_of(network))
    assert [remark for remark in report.remarks if f"the weights lie under '{entry}'" in remark]
    assert {name.split()[0] for name in report.left_behind} >= {"optimizer", "epoch"}
    assert main(["weights", "inspect", str(tmp_path / "source.pth")]) == 0
    assert "formats that read it: lxmert" in capsys.readouterr().out


def test_of_two_sets_of_weights_in_one_file_none_is_guessed(make_network: MakeNetwork, tmp_path: Path) -> None:
    weights = authors_state(make_network("lxmert"))
    torch.save({"model": weights, "ema": weights, "epoch": 3}, tmp_path / "source.pth")
    with pytest.raises(CheckpointError, match=r"source\.pth: there are weights under 'model', 'ema'; save those"):
        import_weights(tmp_path / "source.pth", tmp_path / "out.safetensors", FORMATS["lxmert"])


def test_what_is_wrong_with_the_weights_inside_is_said(make_network: MakeNetwork, tmp_path: Path) -> None:
    weights = {**authors_state(make_network("lxmert")), "bert.adapter.weight": torch.ones(2)}
    torch.save({"model": weights, "epoch": 3}, tmp_path / "source.pth")
    with pytest.raises(CheckpointError) as caught:
        import_weights(tmp_path / "source.pth", tmp_path / "out.safetensors", FORMATS["lxmert"])
    assert any("under 'model': " in problem and "adapter.weight" in problem for problem in caught.value.problems)

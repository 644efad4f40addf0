"""Weights that have more, less or other than the network are refused whole, with what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy_weights import ToyBackbone, toy_tensors

from vlrun.engine.weights import HeadSlot, load_weights
from vlrun.errors import CheckpointError


def test_a_file_with_more_layers_than_the_backbone_is_refused_with_the_option_to_set(save: Any) -> None:
    backbone = ToyBackbone()

    with pytest.raises(CheckpointError) as caught:
        load_weights(backbone, save(toy_tensors(depth=205)))

    message = str(caught.value)
    assert (
        "5 of its tensors have no place in the backbone: 'layers.200', 'layers.201', 'layers.202', ... and 2 more"
        in message
    )
    assert "layers of 'layers': 205 in the file, 200 in the backbone; set backbone.num_layers=205" in message
    assert not any(parameter.any() for parameter in backbone.layers)


def test_a_file_with_fewer_layers_says_which_option_to_set(save: Any) -> None:
    with pytest.raises(CheckpointError, match=r"only 151 of .*\n.*'layers': 150 in the file, 200 in the backbone; set"):
        load_weights(ToyBackbone(), save(toy_tensors(depth=150)))


def test_a_tensor_of_an_unknown_part_is_refused_and_named(save: Any) -> None:
    with pytest.raises(CheckpointError, match=r"1 of its tensors have no place in the backbone: 'second_pooler.bias'"):
        load_weights(ToyBackbone(), save(toy_tensors(second_pooler__bias=torch.ones(1))))


def test_parts_that_the_backbone_declares_unused_are_left_out(save: Any) -> None:
    report = load_weights(ToyBackbone(), save(toy_tensors(answers__bias=torch.ones(2))))

    assert (report.unused, report.unexpected) == (("answers.bias",), ())


def test_a_part_is_declared_by_its_whole_name(save: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no place in the backbone: 'answers_of_old.bias'"):
        load_weights(ToyBackbone(), save(toy_tensors(answers_of_old__bias=torch.ones(2))))


def test_a_partial_file_may_lack_whole_stacks(save: Any) -> None:
    report = load_weights(ToyBackbone(), save({"pooler.weight": torch.ones(3, 2)}, partial=True))

    assert report.matched == ("pooler.weight",)


@pytest.mark.parametrize("depth", [199, 201])
def test_a_partial_file_fills_a_stack_whole_or_not_at_all(save: Any, depth: int) -> None:
    backbone = ToyBackbone()

    with pytest.raises(CheckpointError, match=f"set backbone.num_layers={depth}"):
        load_weights(backbone, save(toy_tensors(depth), partial=True))

    assert not any(parameter.any() for parameter in backbone.layers)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(1, 3), r"'answers.weight' has shape \(2, 1\), the model needs \(3, 1\)"),
        (nn.Linear(1, 2, bias=False), "has tensors that this run's head lacks: 'answers.bias'"),
        (nn.Bilinear(1, 1, 2), r"'answers.weight' has shape"),
        (nn.Sequential(nn.Linear(1, 2)), "is not whole: 'answers.0.weight', 'answers.0.bias' of this run's head"),
    ],
    ids=["larger", "without bias", "of another kind", "deeper"],
)
def test_a_head_of_another_size_is_refused(save: Any, layer: nn.Module, message: str) -> None:
    held = {"answers__weight": torch.ones(2, 1), "answers__bias": torch.ones(2)}

    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(ToyBackbone(), save(toy_tensors(**held)), heads=[HeadSlot("answers", layer)])

    assert "the head 'answers' was trained with other options" in str(caught.value)


def test_a_network_of_another_size_is_refused_in_a_few_lines(save: Any) -> None:
    tensors = {name: torch.ones(5, 7) for name in toy_tensors()}

    with pytest.raises(CheckpointError) as caught:
        load_weights(ToyBackbone(), save(tensors))

    lines = str(caught.value).splitlines()
    assert len(lines) <= 6
    assert sum("the model needs" in line for line in lines) == 3
    assert any("198 more" in line for line in lines)
    assert "set the size options under `backbone` to those of the file" in lines[-1]

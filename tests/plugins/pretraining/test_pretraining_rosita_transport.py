"""The transport term: equal to the original's numbers, in every precision, and a sum over pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlrun_pretraining.rosita.transport import _costs, transport_distances, transport_term

GOLDEN = Path(__file__).parents[2] / "golden" / "rosita" / "pretrain.npz"
TOLERANCE = 1e-4  # the original computes in float32; README of the goldens


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return {
            name: torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith("ot/") and arrays[name].ndim
        }


def distances(golden: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return transport_distances(x, y, golden["ot/x_pad"] == 0, golden["ot/y_pad"] == 0)


def test_distances_are_the_originals(golden: dict[str, Tensor]) -> None:
    found = distances(golden, golden["ot/x"], golden["ot/y"])
    assert torch.allclose(found.double(), golden["ot/free_distance"], atol=TOLERANCE)


def test_autocast_changes_no_distance(golden: dict[str, Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = distances(golden, golden["ot/x"], golden["ot/y"])
    assert torch.equal(found, distances(golden, golden["ot/x"], golden["ot/y"]))


def test_padding_changes_no_distance_and_gets_no_gradient(golden: dict[str, Tensor]) -> None:
    x, real = golden["ot/x"].clone(), golden["ot/x_pad"] == 0
    x[~real] += 5
    x.requires_grad_()
    found = distances(golden, x, golden["ot/y"])
    assert torch.allclose(found.detach().double(), golden["ot/free_distance"], atol=TOLERANCE)
    found.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~real].any()
    assert x.grad[real].any()


def test_costs_are_the_originals_which_are_stored_before_padding_becomes_0(golden: dict[str, Tensor]) -> None:
    x, y = golden["ot/x"], golden["ot/y"]
    everything_is_real = torch.ones(x.shape[:2], dtype=torch.bool), torch.ones(y.shape[:2], dtype=torch.bool)
    found = _costs(x, y, *everything_is_real)
    assert torch.allclose(found.double(), golden["ot/free_cost"], atol=TOLERANCE)


def test_a_pair_without_regions_costs_nothing_and_spoils_no_other(golden: dict[str, Tensor]) -> None:
    regions = golden["ot/y_pad"] == 0
    regions[0] = False
    found = transport_distances(golden["ot/x"], golden["ot/y"], golden["ot/x_pad"] == 0, regions)
    assert found[0] == 0
    assert torch.allclose(found[1].double(), golden["ot/free_distance"][1], atol=TOLERANCE)


def test_mismatched_pairs_count_against_matched_ones() -> None:
    term = transport_term(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True]))
    assert float(term) == 3.0

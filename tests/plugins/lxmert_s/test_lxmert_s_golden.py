"""Both networks and their gradients equal the authors' code (golden/lxmert_s/backbone_{s,lxmert}.npz), in float32.

Tolerances: the README of the vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vlrun import BackboneOutput, Encoding

pytestmark = pytest.mark.golden

OUTPUT_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4  # relative to 1 + |x|

files = pytest.mark.parametrize("file", ["backbone_s", "backbone_lxmert"])


def encoding(golden: Any, case: str) -> Encoding:
    """The inputs of a case: ``masked``; ``nomask``: all tokens real; ``vmask``: some regions are padding as well."""
    text_mask = golden.tensor("in/input_mask").bool()
    region_mask = golden.tensor("in/visual_mask").bool()
    region_mask = region_mask[:, -golden.vectors["in/feats"].shape[1] :]  # without the visual [CLS], always real
    return Encoding(
        token_ids=golden.tensor("in/input_ids"),
        text_mask=torch.ones_like(text_mask) if case == "nomask" else text_mask,
        region_features=golden.tensor("in/feats"),
        boxes=golden.tensor("in/boxes"),
        region_mask=region_mask if case == "vmask" else torch.ones_like(region_mask),
        position_ids=golden.tensor("in/token_position") if "in/token_position" in golden.vectors else None,
    )


def use_types(embeddings: nn.Module, token_types: Tensor) -> None:
    """No task uses types, so the interface has none; the table is there."""
    embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "token_types": token_types}), with_kwargs=True
    )


def tap(golden: Any) -> dict[str, Tensor]:
    """Fills itself, in a forward pass, with the outputs of all blocks by the names of the vectors."""
    network = golden.network
    blocks = {"embeddings": network.embeddings, "visn_fc": network.encoder.visn_fc, "pooler": network.pooler}
    if hasattr(network, "pooler_f"):
        blocks["pooler_f"] = network.pooler_f
    for letter, layers in (("l", network.encoder.layer), ("r", network.encoder.r_layers)):
        blocks.update({f"{letter}{index}": layer for index, layer in enumerate(layers)})
    found: dict[str, Tensor] = {}
    for name, block in blocks.items():
        block.register_forward_hook(lambda module, inputs, output, name=name: found.update({name: output}))
    for index, layer in enumerate(network.encoder.x_layers):
        layer.register_forward_hook(
            lambda module, inputs, output, index=index: found.update(
                {f"x{index}/lang": output[0], f"x{index}/visn": output[1]}
            )
        )
    return found


def assert_equals(ours: dict[str, Tensor], golden: Any, folder: str) -> None:
    differences = {
        name: float((tensor.detach() - golden.tensor(f"{folder}/{name}")).abs().max()) for name, tensor in ours.items()
    }
    assert max(differences.values()) <= OUTPUT_TOLERANCE, differences


def states(output: BackboneOutput, visual: Tensor) -> dict[str, Tensor]:
    return {"lang_feats": output.text, "visn_feats": visual, "pooled": output.pooled}


@files
@pytest.mark.parametrize("case", ["masked", "nomask", "types", "vmask"])
def test_outputs_equal_the_original(golden_network: Any, file: str, case: str) -> None:
    golden = golden_network(file)
    if case == "types":
        use_types(golden.network.embeddings, golden.tensor("in/segment_ids"))
    blocks = tap(golden)

    output = golden.network(encoding(golden, case))

    visual = blocks[f"x{len(golden.network.encoder.x_layers) - 1}/visn"]  # with the visual [CLS]
    assert_equals(states(output, visual), golden, case)
    assert torch.equal(output.regions, visual[:, -output.regions.shape[1] :])
    assert output.regions.shape[1] == golden.vectors["in/feats"].shape[1]


@files
def test_every_block_equals_the_original(golden_network: Any, file: str) -> None:
    cases = {name.partition("/inter/")[0] for name in golden_network(file).vectors if "/inter/" in name}
    assert cases
    for case in cases:
        golden = golden_network(file)
        if case == "types":
            use_types(golden.network.embeddings, golden.tensor("in/segment_ids"))
        blocks = tap(golden)

        golden.network(encoding(golden, case))

        folder = f"{case}/inter/"
        assert set(blocks) == {name.removeprefix(folder) for name in golden.vectors if name.startswith(folder)}
        assert_equals(blocks, golden, f"{case}/inter")


@files
def test_gradients_equal_the_original(golden_network: Any, file: str) -> None:
    golden = golden_network(file)

    (golden.network(encoding(golden, "masked")).pooled * golden.tensor("grad_probe")).sum().backward()

    without = {name for name, parameter in golden.network.named_parameters() if parameter.grad is None}
    differences = {}
    for name, parameter in golden.network.named_parameters():
        if name not in without:
            theirs = golden.array("grad", name)
            differences[name] = float(np.max(np.abs(parameter.grad.numpy() - theirs) / (1 + np.abs(theirs))))
    theirs_without = golden.vectors.get("params_without_grad", [])
    assert without == {str(name).removeprefix("bert.") for name in theirs_without}
    assert len(differences) == sum(name.startswith("grad/") for name in golden.vectors)
    assert max(differences.values()) <= GRADIENT_TOLERANCE, differences


def test_only_the_row_of_cls_has_a_gradient_in_the_visual_table_of_the_original(golden_network: Any) -> None:
    """Why one row of the table is enough."""
    golden = golden_network("backbone_s")
    gradient = golden.vectors["grad/bert.word_embeddings.weight"]

    assert np.flatnonzero(gradient.any(axis=1)).tolist() == [golden.cls_id]
    assert set(golden.vectors["in/input_ids"][:, 0]) == {golden.cls_id}


@files
def test_row_zero_of_the_text_tables_is_never_trained(golden_network: Any, file: str) -> None:
    golden = golden_network(file)

    golden.network(encoding(golden, "masked")).pooled.sum().backward()

    embeddings = golden.network.embeddings
    tables = (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings)
    assert all(table.weight.grad is not None for table in tables)  # so weight decay reaches it
    assert not any(table.weight.grad[0].any() for table in tables)

"""The losses of LXMERT's and LXMERT-S's pre-training, and their gradients, equal the originals'.

``golden/lxmert_s/pretrain_{lxmert,s}.npz``; tolerances: the README of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlrun import Encoding
from vlrun.blocks.answers import AnswerVocabulary
from vlrun_lxmert_s.checkpoint import translate_lxmert, translate_lxmert_s
from vlrun_pretraining.config import CocoCaptionsConfig, PretrainConfig
from vlrun_pretraining.head import PretrainingHead
from vlrun_pretraining.losses import LOSSES, loss_counts
from vlrun_pretraining.rule import LOSS_SHARE

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5
NAMES = {
    "mask_lm": "words",
    "topic": "topics",
    "matched": "matching",
    "obj": "classes",
    "attr": "attributes",
    "feat": "features",
    "qa": "answers",
}
"""The originals' name of each loss -> ours."""


def head_of(golden: Any, losses: list[str]) -> PretrainingHead:
    """The heads of the task, as large as those of the vectors."""
    sizes = {name: golden.tensor(f"out/{name}_score").shape[-1] for name in ("obj", "attr", "feat", "answer")}
    config = PretrainConfig(
        name="pretrain",
        dataset=CocoCaptionsConfig(name="coco-captions", annotations="a", features="f", evaluate=["val"]),
        losses=losses,
        num_classes=sizes["obj"],
        num_attributes=sizes["attr"],
        region_times_pooled="topics" in losses,
    )
    answers = AnswerVocabulary([f"answer {number}" for number in range(sizes["answer"])])
    head = PretrainingHead(golden.network, config, sizes["feat"], answers)
    for name, part in head.named().items():
        prefix = f"{name}."
        own = {key.removeprefix(prefix): value for key, value in golden.heads.items() if key.startswith(prefix)}
        missing, unexpected = part.module.load_state_dict(own, strict=False)
        assert not unexpected
        assert set(missing) <= {"decoder.weight"}, "tied to the embeddings"
    return head


def targets_of(golden: Any) -> dict[str, Tensor]:
    words, masks = golden.tensor("in/lm_labels"), golden.tensor("in/feat_mask")
    word_rows, word_places = (words >= 0).nonzero(as_tuple=True)
    region_rows, region_places = (masks > 0).nonzero(as_tuple=True)
    classes, attributes = golden.tensor("in/obj_label"), golden.tensor("in/attr_label")
    rows, places = torch.ones_like(masks).nonzero(as_tuple=True)
    all_regions = torch.tensor(LOSS_SHARE * masks.numel(), dtype=torch.float64)
    targets = {
        "matched": golden.tensor("in/matched_label").bool(),
        "word_rows": word_rows,
        "word_places": word_places,
        "word_labels": words[word_rows, word_places],
        "region_rows": region_rows,
        "region_places": region_places,
        "region_features": golden.tensor("in/feat_target")[region_rows, region_places],
        "class_rows": rows,
        "class_places": places,
        "class_labels": classes[rows, places].clamp(min=0),
        "attribute_labels": attributes[rows, places].clamp(min=0),
        # what the originals leave out by a label of -1 has no weight here
        "class_weights": torch.where(classes >= 0, golden.tensor("in/obj_conf"), 0)[rows, places],
        "attribute_weights": torch.where(attributes >= 0, golden.tensor("in/attr_conf"), 0)[rows, places],
        "answers": golden.tensor("in/ans"),
        **{f"{kind}_count": all_regions for kind in ("feature", "class", "attribute")},
    }
    if "in/topic_label" in golden.vectors:
        topics = golden.tensor("in/topic_label")
        targets["topic_rows"], targets["topic_words"] = topics.nonzero(as_tuple=True)
        targets["topic_count"] = torch.tensor(topics.numel())
    return targets


@pytest.mark.parametrize("file", ["pretrain_lxmert", "pretrain_s"])
def test_losses_and_gradients_are_those_of_the_original(golden_network: Callable[[str], Any], file: str) -> None:
    golden = golden_network(file)
    names = [NAMES[name] for name in golden.vectors["out/loss_names"].tolist()]
    head, targets = head_of(golden, names), targets_of(golden)
    encoding = Encoding(
        token_ids=golden.tensor("in/input_ids"),
        text_mask=golden.tensor("in/input_mask").bool(),
        region_features=golden.tensor("in/feats"),
        boxes=golden.tensor("in/boxes"),
        region_mask=torch.ones(golden.tensor("in/boxes").shape[:2], dtype=torch.bool),
        position_ids=golden.tensor("in/token_position") if "in/token_position" in golden.vectors else None,
    )
    outputs = head(golden.network(encoding))

    counts = loss_counts(targets)
    losses = {name: LOSSES[name](outputs, targets) / counts[name] for name in names}
    total = torch.stack([losses[name].float() for name in names])
    torch.testing.assert_close(total, golden.tensor("out/losses")[0], rtol=TOLERANCE, atol=TOLERANCE)
    total.sum().backward()

    is_simplified = file == "pretrain_s"
    theirs = stored_gradients(golden)
    ours = translate_lxmert_s(theirs, cls_id=golden.cls_id) if is_simplified else translate_lxmert(theirs)
    found, compared = gradients(golden.network, head), 0
    for name, expected in ours.items():
        if not expected.isnan().any():
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=2e-5, msg=name)
            compared += 1
    assert compared >= sum(name.startswith("grad/") for name in golden.vectors) - 1, "one is of a tied table"


def stored_gradients(golden: Any) -> dict[str, Tensor]:
    """By the authors' names, NaN where the vectors have none."""
    states = {name.removeprefix("state/"): name for name in golden.vectors if name.startswith("state/")}
    return {
        name: golden.tensor(f"grad/{name}")
        if f"grad/{name}" in golden.vectors
        else torch.full_like(golden.tensor(state), torch.nan)
        for name, state in states.items()
    }


def gradients(network: nn.Module, head: PretrainingHead) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, part in head.named().items():
        found |= {f"{name}.{own}": parameter.grad for own, parameter in part.module.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}

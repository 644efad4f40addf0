"""The plugin by the kit, and against a plain reading of the authors' network."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vlrun_uniter.checkpoint import translate
from vlrun_uniter.config import UniterConfig
from vlrun_uniter.model import Uniter

from vlrun import CheckpointError, Encoding, Pair
from vlrun.blocks.wordpiece import train_wordpiece
from vlrun.testing import check_backbone, check_plugin, make_regions, private_imports

FEATURES, HEADS, LAYERS = 6, 4, 2


@pytest.fixture
def uniter(tmp_path: Path) -> Uniter:
    train_wordpiece(["a red ball", "two dogs on a sofa"], 60, tmp_path / "words.txt")
    options = {"size": "tiny", "hidden_size": 16, "feed_forward_size": 24, "num_heads": HEADS, "num_regions": 4}
    config = UniterConfig(name="uniter", vocabulary=tmp_path / "words.txt", region_feature_size=FEATURES, **options)
    torch.manual_seed(0)
    return Uniter(config)


def test_every_path_that_the_plugin_names_leads_somewhere_and_only_public_names_are_used() -> None:
    check_plugin("vlrun_uniter.plugin")
    import vlrun_uniter

    assert private_imports(Path(vlrun_uniter.__file__).parent) == []


def test_the_backbone_keeps_its_promises(uniter: Uniter) -> None:
    check_backbone(uniter, ["a red ball", "two dogs on a sofa", ""], FEATURES, max_text_tokens=12)


def test_boxes_are_shares_of_the_image_with_their_area(uniter: Uniter) -> None:
    regions = make_regions(["image"], FEATURES)
    encoding = uniter.pair_encoder(8)([Pair("a red ball", "image")], regions)
    x1, y1, x2, y2 = (float(value) for value in regions.boxes[0, 0])
    height, width = (float(value) for value in regions.sizes[0])
    wide, tall = (x2 - x1) / width, (y2 - y1) / height
    expected = [x1 / width, y1 / height, x2 / width, y2 / height, wide, tall, wide * tall]
    assert encoding.boxes[0, 0].tolist() == pytest.approx(expected)


def authors_tensors(uniter: Uniter) -> dict[str, Tensor]:
    """Random tensors in the layout of the authors' files."""
    width, wide, words = uniter.hidden_size, 24, uniter.wordpiece.size
    linear = {"pooler.dense": (width, width), "img_embeddings.img_linear": (width, FEATURES)}
    linear["img_embeddings.pos_linear"] = (width, 7)
    norms = [
        "embeddings.LayerNorm",
        *(f"img_embeddings.{name}" for name in ("img_layer_norm", "pos_layer_norm", "LayerNorm")),
    ]
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        linear |= {f"{layer}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (width, width)}
        linear |= {f"{layer}.intermediate.dense": (wide, width), f"{layer}.output.dense": (width, wide)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tables = {"word": words, "position": 64, "token_type": 2}
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, width) for name, rows in tables.items()}
    shapes["img_embeddings.mask_embedding.weight"] = (2, FEATURES)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    shapes = {f"uniter.{name}": shape for name, shape in shapes.items()}
    shapes |= {"itm_output.weight": (2, width), "itm_output.bias": (2,), "cls.predictions.bias": (words,)}
    torch.manual_seed(1)
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def plain(tensors: dict[str, Tensor], encoding: Encoding) -> Tensor:
    """The last hidden states (P, S, H), written down from model/model.py and model/layer.py of the authors."""

    def dense(name: str, states: Tensor) -> Tensor:
        return F.linear(states, tensors[f"uniter.{name}.weight"], tensors[f"uniter.{name}.bias"])

    def norm(name: str, states: Tensor) -> Tensor:
        weight, bias = tensors[f"uniter.{name}.weight"], tensors[f"uniter.{name}.bias"]
        return F.layer_norm(states, weight.shape, weight, bias, 1e-12)

    table = {
        name: tensors[f"uniter.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    }
    text = table["word"][encoding.token_ids] + table["position"][: encoding.token_ids.shape[1]] + table["token_type"][0]
    seen = norm("img_embeddings.img_layer_norm", dense("img_embeddings.img_linear", encoding.region_features.float()))
    place = norm("img_embeddings.pos_layer_norm", dense("img_embeddings.pos_linear", encoding.boxes))
    image = norm("img_embeddings.LayerNorm", seen + place + table["token_type"][1])
    states = torch.cat([norm("embeddings.LayerNorm", text), image], 1)
    mask = torch.cat([encoding.text_mask, encoding.region_mask], 1)[:, None, None]
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            dense(f"{layer}.attention.self.{name}", states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + (~mask) * -10000.0
        heads = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
        states = norm(f"{layer}.attention.output.LayerNorm", states + dense(f"{layer}.attention.output.dense", heads))
        wide = F.gelu(dense(f"{layer}.intermediate.dense", states))
        states = norm(f"{layer}.output.LayerNorm", states + dense(f"{layer}.output.dense", wide))
    return states


@pytest.mark.parametrize("trains", [False, True], ids=["fused", "as trained"])
def test_imported_weights_compute_what_the_authors_network_does(uniter: Uniter, trains: bool) -> None:
    tensors = authors_tensors(uniter)
    uniter.load_state_dict(translate(tensors))
    for part in uniter.modules():
        if hasattr(part, "p"):
            part.p = 0.0
    for layer in uniter.layers:
        layer.self_attn.dropout = 0.0
    uniter.train(trains)
    pairs = [Pair("a red ball", "image_0"), Pair("two dogs on a sofa", "image_1")]
    encoding = uniter.pair_encoder(12)(pairs, make_regions(["image_0", "image_1"], FEATURES))
    with torch.no_grad():
        output, expected = uniter(encoding), plain(tensors, encoding)
        pooled = torch.tanh(
            F.linear(expected[:, 0], tensors["uniter.pooler.dense.weight"], tensors["uniter.pooler.dense.bias"])
        )
    real = torch.cat([encoding.text_mask, encoding.region_mask], 1)
    found = torch.cat([output.text, output.regions], 1)
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.pooled, pooled, atol=1e-5, rtol=1e-5)


def test_other_files_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint of UNITER"):
        translate({"bert.embeddings.word_embeddings.weight": torch.zeros(1)})

"""Networks of transformers that read regions: the same numbers, from weights in their own layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from vlrun_hf.checkpoint import translate_lxmert, translate_oscar, translate_visualbert
from vlrun_hf.config import OscarConfig, TransformersLxmertConfig, VisualBertConfig
from vlrun_hf.lxmert import TransformersLxmert
from vlrun_hf.oscar import Oscar
from vlrun_hf.regions import NUM_SHARES, box_shares
from vlrun_hf.visualbert import VisualBert

from vlrun import Backbone, CheckpointError, ConfigError, Encoding, Pair, RegionBatch
from vlrun.blocks.object_tags import ObjectTags
from vlrun.blocks.wordpiece import WordPiece
from vlrun.testing import check_backbone, make_regions

TOLERANCE = 1e-5
FEATURES, REGIONS, TAG_TOKENS = 6, 5, 7
NAMES = ("red ball", "dogs", "cat", "left")
TEXTS = ("a red ball", "two dogs on the left", "a cat")
SIZES = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 24}


def visualbert_config(wordpiece: WordPiece) -> transformers.VisualBertConfig:
    return transformers.VisualBertConfig(
        vocab_size=wordpiece.size, num_hidden_layers=2, visual_embedding_dim=FEATURES, **SIZES
    )


def lxmert_config(wordpiece: WordPiece) -> transformers.LxmertConfig:
    layers = {"l_layers": 2, "x_layers": 2, "r_layers": 1}
    return transformers.LxmertConfig(vocab_size=wordpiece.size, visual_feat_dim=FEATURES, **layers, **SIZES)


def bert_config(wordpiece: WordPiece) -> transformers.BertConfig:
    return transformers.BertConfig(vocab_size=wordpiece.size, num_hidden_layers=2, **SIZES)


def visualbert(wordpiece: WordPiece) -> VisualBert:
    return VisualBert(wordpiece, visualbert_config(wordpiece), REGIONS)


def lxmert(wordpiece: WordPiece) -> TransformersLxmert:
    return TransformersLxmert(wordpiece, lxmert_config(wordpiece), REGIONS)


def oscar(wordpiece: WordPiece, *, with_tags: bool = True, image_norm: bool = True) -> Oscar:
    tags = ObjectTags(wordpiece, NAMES, TAG_TOKENS) if with_tags else None
    sizes = {"region_feature_size": FEATURES, "num_regions": REGIONS}
    return Oscar(wordpiece, bert_config(wordpiece), **sizes, image_norm=image_norm, tags=tags)  # type: ignore[arg-type]


def oscar_without_tags(wordpiece: WordPiece) -> Oscar:
    return oscar(wordpiece, with_tags=False, image_norm=False)


Make = Callable[[WordPiece], Backbone]
BACKBONES = [pytest.param(make, id=make.__name__) for make in (visualbert, lxmert, oscar, oscar_without_tags)]


def encoded(backbone: Backbone) -> tuple[Encoding, RegionBatch]:
    pairs = [Pair(text, f"image_{row}") for row, text in enumerate(TEXTS)]
    regions = make_regions([pair.image_id for pair in pairs], FEATURES, REGIONS, num_classes=len(NAMES))
    encoding = backbone.pair_encoder(12)(pairs, regions)
    assert not encoding.full_texts, "texts of several lengths are compared"
    assert not encoding.full_regions, "images of several numbers of regions are compared"
    return encoding, regions


@pytest.mark.parametrize("make", BACKBONES)
def test_the_backbone_keeps_its_promises(wordpiece: WordPiece, make: Make) -> None:
    torch.manual_seed(0)
    check_backbone(make(wordpiece), TEXTS, FEATURES, 12, num_classes=len(NAMES))


def test_visualbert_gives_the_outputs_of_transformers(wordpiece: WordPiece) -> None:
    theirs = transformers.VisualBertForPreTraining(visualbert_config(wordpiece)).eval()
    ours = loaded(visualbert(wordpiece), translate_visualbert(theirs.state_dict()))
    encoding, _ = encoded(ours)

    def outputs(network: nn.Module) -> Any:
        return network(
            input_ids=encoding.token_ids,
            attention_mask=encoding.text_mask.long(),
            visual_embeds=encoding.region_features.float(),
            visual_attention_mask=encoding.region_mask.long(),
        )

    with torch.inference_mode():
        expected, logits = outputs(theirs.visual_bert), outputs(theirs).seq_relationship_logits
        found = ours(encoding)
        own_logits = ours.matching_head()(found.pooled)
    states = torch.cat([found.text, found.regions], dim=1)
    real = torch.cat([encoding.text_mask, encoding.region_mask], dim=1)
    assert torch.allclose(states[real], expected.last_hidden_state[real], atol=TOLERANCE)
    assert torch.allclose(found.pooled, expected.pooler_output, atol=TOLERANCE)
    assert torch.allclose(own_logits[:, [1, 0]], logits, atol=TOLERANCE), "their class 0 is a match"


def test_lxmert_gives_the_outputs_of_transformers(wordpiece: WordPiece) -> None:
    theirs = transformers.LxmertForPreTraining(lxmert_config(wordpiece)).eval()
    ours = loaded(lxmert(wordpiece), translate_lxmert(theirs.state_dict()))
    encoding, _ = encoded(ours)
    given = {
        "input_ids": encoding.token_ids,
        "attention_mask": encoding.text_mask.long(),
        "visual_feats": encoding.region_features.float(),
        "visual_pos": encoding.boxes,
        "visual_attention_mask": encoding.region_mask.long(),
    }
    with torch.inference_mode():
        expected = theirs.lxmert(**given)
        logits = theirs(**given).cross_relationship_score
        found = ours(encoding)
        own_logits = ours.matching_head()(found.pooled)
    assert torch.allclose(found.text[encoding.text_mask], expected.language_output[encoding.text_mask], atol=TOLERANCE)
    seen = encoding.region_mask
    assert torch.allclose(found.regions[seen], expected.vision_output[seen], atol=TOLERANCE)
    assert torch.allclose(found.pooled, expected.pooled_output, atol=TOLERANCE)
    assert torch.allclose(own_logits, logits, atol=TOLERANCE)


@pytest.mark.parametrize("image_norm", [False, True], ids=["Oscar", "VinVL"])
@pytest.mark.parametrize("with_tags", [False, True], ids=["without tags", "with tags"])
def test_oscar_is_bert_over_one_row_of_text_tags_and_regions(
    wordpiece: WordPiece, with_tags: bool, image_norm: bool
) -> None:
    torch.manual_seed(0)
    ours = oscar(wordpiece, with_tags=with_tags, image_norm=image_norm).eval()
    encoding, regions = encoded(ours)
    with torch.inference_mode():
        found = ours(encoding)
        for row, text in enumerate(TEXTS):
            one, count = regions.take([row]), int(regions.mask[row].sum())
            tokens = [wordpiece.cls_id, *wordpiece.ids(text), wordpiece.sep_id]
            types = [0] * len(tokens)
            if with_tags:
                assert one.class_ids is not None
                names = [piece for number in one.class_ids[0, :count] for piece in wordpiece.ids(NAMES[number])]
                tags = [*names[: TAG_TOKENS - 1], wordpiece.sep_id]
                tokens, types = tokens + tags, types + [1] * len(tags)
            words = ours.bert.embeddings(
                input_ids=torch.tensor([tokens]), token_type_ids=torch.tensor([types])
            )  # positions count on
            numbers = torch.from_numpy(box_shares(one)[:, :count])
            features = torch.from_numpy(one.features[:, :count]).float()
            seen = ours.img_norm(ours.img_embedding(torch.cat([features, numbers], dim=-1)))
            states = ours.bert.encoder(torch.cat([words, seen], dim=1))[0]
            length = len(wordpiece.ids(text)) + 2
            assert torch.allclose(found.pooled[row], ours.bert.pooler(states)[0], atol=TOLERANCE)
            assert torch.allclose(found.text[row, :length], states[0, :length], atol=TOLERANCE)
            assert torch.allclose(found.regions[row, :count], states[0, -count:], atol=TOLERANCE)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_files_of_oscar_fill_the_network(wordpiece: WordPiece, num_classes: int) -> None:
    """Their names: BERT's with the regions' in between, and one class more for wrong tags in Oscar+."""
    torch.manual_seed(0)
    source = oscar(wordpiece).state_dict()
    theirs = {f"bert.{name}" if name.startswith("img_embedding") else name: tensor for name, tensor in source.items()}
    theirs = {name.replace("img_norm", "bert.LayerNorm"): tensor for name, tensor in theirs.items()}
    for kind in ("weight", "bias"):
        match_last = theirs.pop(f"seq_relationship.{kind}")
        middle = torch.full((num_classes - 2, *match_last.shape[1:]), 9.0)
        theirs[f"cls.seq_relationship.{kind}"] = torch.cat([match_last[1:], middle, match_last[:1]])
    theirs["cls.predictions.bias"] = torch.zeros(wordpiece.size)

    tensors = translate_oscar(theirs)

    assert tensors.keys() == source.keys()
    assert all(torch.equal(tensors[name], source[name]) for name in source)


def test_boxes_are_shares_of_the_image() -> None:
    regions = make_regions(["image_0"], FEATURES, REGIONS)
    shares = box_shares(regions)
    assert shares.shape == (1, REGIONS, NUM_SHARES)
    (height, width), box = regions.sizes[0], regions.boxes[0, 0]
    expected = [box[0] / width, box[1] / height, box[2] / width, box[3] / height]
    assert shares[0, 0].tolist() == pytest.approx(
        [*expected, expected[2] - expected[0], expected[3] - expected[1]], abs=1e-6
    )


@pytest.mark.parametrize(
    ("translate", "network"),
    [(translate_visualbert, "VisualBERT"), (translate_lxmert, "LXMERT"), (translate_oscar, "Oscar")],
)
def test_a_file_of_another_network_is_refused(
    wordpiece: WordPiece, translate: Callable[[Any], dict[str, Tensor]], network: str
) -> None:
    other = transformers.BertModel(bert_config(wordpiece)).state_dict()
    with pytest.raises(CheckpointError, match=f"not a file of {network}; it begins with embeddings"):
        translate(other)


@pytest.mark.parametrize(
    ("make", "config"),
    [(visualbert, VisualBertConfig), (lxmert, TransformersLxmertConfig), (oscar, OscarConfig)],
    ids=["visualbert", "lxmert", "oscar"],
)
def test_the_sizes_of_weights_are_seen(wordpiece: WordPiece, make: Make, config: Any) -> None:
    options = config.options_of_weights({name: tuple(t.shape) for name, t in make(wordpiece).state_dict().items()}, 4)
    assert options["region_feature_size"] == FEATURES
    assert options["max_positions"] == SIZES["max_position_embeddings"]
    assert options.get("image_norm", True) is True


def test_text_and_tags_have_to_fit_the_positions(wordpiece: WordPiece) -> None:
    backbone = oscar(wordpiece)
    backbone.pair_encoder(24 - TAG_TOKENS)
    with pytest.raises(ConfigError, match=r"max_text_tokens 18 and backbone\.max_tag_tokens make 25, and there are 24"):
        backbone.pair_encoder(25 - TAG_TOKENS)


def test_tags_need_classes(wordpiece: WordPiece) -> None:
    backbone = oscar(wordpiece)
    assert backbone.reads_classes
    assert not oscar_without_tags(wordpiece).reads_classes
    encoding, _ = encoded(backbone)
    other = replace(encoding, tag_ids=torch.zeros_like(encoding.tag_ids))  # type: ignore[arg-type]
    with torch.inference_mode():
        backbone.eval()
        assert not torch.allclose(backbone(encoding).pooled, backbone(other).pooled, atol=1e-3)


def loaded(backbone: Any, tensors: dict[str, Tensor]) -> Any:
    """The backbone with these weights, all of them, in evaluation mode."""
    backbone.load_state_dict(tensors)
    return backbone.eval()

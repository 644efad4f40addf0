"""ViLT: the same numbers as transformers gives, from the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from vlrun_hf.checkpoint import translate_vilt
from vlrun_hf.vilt import Vilt

from vlrun import Encoding, Pair, PictureShape, RegionBatch
from vlrun.blocks.wordpiece import WordPiece
from vlrun.testing import check_backbone, check_plugin, make_pictures

TOLERANCE = 1e-5
SHAPE = PictureShape(32, longer=53, multiple=8)
TEXTS = ("a red ball", "two dogs on the left", "a cat")


@pytest.fixture
def config(wordpiece: WordPiece) -> transformers.ViltConfig:
    return transformers.ViltConfig(
        vocab_size=wordpiece.size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=12,
        image_size=32,
        patch_size=8,
        modality_type_vocab_size=3,
        pad_token_id=wordpiece.pad_id,
    )


@pytest.fixture
def vilt(wordpiece: WordPiece, config: transformers.ViltConfig) -> Vilt:
    torch.manual_seed(0)
    return Vilt(wordpiece, config).eval()


def pixels_and_mask(regions: RegionBatch) -> dict[str, Tensor]:
    """As the image processor of transformers makes them."""
    assert regions.pixels is not None
    assert regions.pixel_sizes is not None
    mask = np.zeros(regions.pixels.shape[:3], np.int64)
    for row, (height, width) in enumerate(regions.pixel_sizes.tolist()):
        mask[row, :height, :width] = 1
    values = (regions.pixels / 255 - 0.5) / 0.5 * mask[..., None]
    return {
        "pixel_values": torch.from_numpy(values.transpose(0, 3, 1, 2)).float(),
        "pixel_mask": torch.from_numpy(mask),
    }


def encoded(vilt: Vilt, image_numbers: tuple[int, ...] = (0, 0, 0)) -> tuple[Encoding, RegionBatch]:
    pairs = [
        Pair(text, f"image_{row}", number) for row, (text, number) in enumerate(zip(TEXTS, image_numbers, strict=True))
    ]
    regions = make_pictures([pair.image_id for pair in pairs], SHAPE)
    return vilt.pair_encoder(12)(pairs, regions), regions


def test_the_plugin_keeps_its_promises() -> None:
    check_plugin("vlrun_hf.plugin")


def test_the_backbone_keeps_its_promises(vilt: Vilt) -> None:
    check_backbone(vilt, TEXTS, max_text_tokens=12, pictures=SHAPE)


@pytest.mark.parametrize("image_number", [0, 1], ids=["first image", "second image"])
def test_outputs_are_those_of_transformers(vilt: Vilt, image_number: int) -> None:
    encoding, regions = encoded(vilt, (image_number,) * 3)
    assert not encoding.full_regions, "pictures of several sizes are compared"
    with torch.inference_mode():
        ours = vilt(encoding)
        theirs = vilt.vilt(
            input_ids=encoding.token_ids,
            attention_mask=encoding.text_mask.long(),
            image_token_type_idx=1 + image_number,
            **pixels_and_mask(regions),
        )
    length = encoding.token_ids.shape[1]
    real = encoding.text_mask
    assert torch.allclose(ours.pooled, theirs.pooler_output, atol=TOLERANCE)
    assert torch.allclose(ours.text[real], theirs.last_hidden_state[:, :length][real], atol=TOLERANCE)


def test_patches_of_a_single_picture_are_those_of_transformers_in_order(vilt: Vilt) -> None:
    regions = make_pictures(["image_0"], SHAPE)
    encoding = vilt.pair_encoder(12)([Pair(TEXTS[0], "image_0")], regions)
    with torch.inference_mode():
        theirs, _, (places, _) = vilt.vilt.embeddings.visual_embed(**pixels_and_mask(regions), max_image_length=-1)
        ours = vilt._image_states(encoding) - vilt.vilt.embeddings.token_type_embeddings.weight[1]
    columns = int(places[0, :, 1].max()) + 1
    order = torch.argsort(places[0, :, 0] * columns + places[0, :, 1])  # transformers draws an order
    assert torch.allclose(ours[:, 0], theirs[:, 0], atol=TOLERANCE)
    assert torch.allclose(ours[:, 1:], theirs[:, 1:][:, order], atol=TOLERANCE)


def test_the_second_image_is_told_from_the_first(vilt: Vilt) -> None:
    with torch.inference_mode():
        first, second = (vilt(encoded(vilt, (number,) * 3)[0]).pooled for number in (0, 1))
    assert not torch.allclose(first, second, atol=1e-3)


def test_patches_of_a_picture_of_the_mean_start_as_nothing(
    wordpiece: WordPiece, config: transformers.ViltConfig
) -> None:
    light = 204  # (204 / 255 - 0.5) / 0.5 = 0.6
    layer = Vilt(wordpiece, config, mean_pixel=0.6).vilt.embeddings.patch_embeddings.projection
    with torch.inference_mode():
        mean, other = (layer(torch.full((1, 3, 8, 8), level / 127.5 - 1)) for level in (light, 250))
    assert mean.abs().max() < TOLERANCE
    assert other.abs().max() > 0.1


def test_weights_of_a_class_with_heads_fill_the_network(vilt: Vilt, config: transformers.ViltConfig) -> None:
    config.modality_type_vocab_size = 2
    theirs = transformers.ViltForImageAndTextRetrieval(config)
    tensors = translate_vilt(theirs.state_dict())
    assert not vilt.load_state_dict(tensors, strict=False).missing_keys
    types = vilt.vilt.embeddings.token_type_embeddings.weight
    assert torch.equal(types[2], types[1])
    encoding, regions = encoded(vilt)
    with torch.inference_mode():
        logits = vilt.matching_head()(vilt.eval()(encoding).pooled)
        expected = theirs.eval()(
            input_ids=encoding.token_ids, attention_mask=encoding.text_mask.long(), **pixels_and_mask(regions)
        ).logits
    assert torch.allclose(logits[:, 1:] - logits[:, :1], expected, atol=TOLERANCE)

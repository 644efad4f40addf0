"""CLIP: the same numbers as transformers gives, from the same pixels, and every pair by one product of matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from vlrun_hf.checkpoint import translate_clip
from vlrun_hf.clip import Clip
from vlrun_hf.config import ClipConfig

from vlrun import CheckpointError, Encoding, Pair, PictureShape, RegionBatch
from vlrun.blocks.wordpiece import WordPiece
from vlrun.testing import check_backbone, make_pictures

TOLERANCE = 1e-5
SHAPE = PictureShape(16, crop=True)
TEXTS = ("a red ball", "two dogs on the left", "a cat")


@pytest.fixture
def config(wordpiece: WordPiece) -> transformers.CLIPConfig:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    ids = {"eos_token_id": wordpiece.sep_id, "bos_token_id": wordpiece.cls_id, "pad_token_id": wordpiece.pad_id}
    text = {"vocab_size": wordpiece.size, "hidden_size": 16, "max_position_embeddings": 12, **sizes, **ids}
    vision = {"hidden_size": 24, "image_size": 16, "patch_size": 8, **sizes}
    return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)


@pytest.fixture
def clip(wordpiece: WordPiece, config: transformers.CLIPConfig) -> Clip:
    torch.manual_seed(0)
    return Clip(wordpiece, config).eval()


@pytest.fixture
def theirs(clip: Clip, config: transformers.CLIPConfig) -> transformers.CLIPModel:
    """The network of transformers with other weights."""
    return transformers.CLIPModel(config).eval()


def encoded(clip: Clip) -> tuple[Encoding, RegionBatch]:
    pairs = [Pair(text, f"image_{row}") for row, text in enumerate(TEXTS)]
    regions = make_pictures([pair.image_id for pair in pairs], SHAPE)
    return clip.pair_encoder(12)(pairs, regions), regions


def test_the_backbone_keeps_its_promises(clip: Clip) -> None:
    check_backbone(clip, TEXTS, max_text_tokens=12, pictures=SHAPE)


def test_imported_weights_give_the_outputs_of_transformers(clip: Clip, theirs: transformers.CLIPModel) -> None:
    clip.load_state_dict(translate_clip(theirs.state_dict()))
    encoding, regions = encoded(clip)
    assert regions.pixels is not None
    processor = transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False)
    pixels = processor(images=list(regions.pixels), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = theirs(input_ids=encoding.token_ids, attention_mask=encoding.text_mask.long(), pixel_values=pixels)
        output = clip(encoding)
        logits = clip.matching_head()(output.pooled)
        found = clip.similarity(clip.text_part(encoding), clip.region_part(encoding))
    assert torch.allclose(clip.text_part(encoding)["vector"], expected.text_embeds, atol=TOLERANCE)
    assert torch.allclose(clip.region_part(encoding)["vector"], expected.image_embeds, atol=TOLERANCE)
    assert torch.allclose(found, expected.logits_per_image, atol=TOLERANCE)
    assert torch.allclose(logits[:, 1] - logits[:, 0], expected.logits_per_image.diagonal(), atol=TOLERANCE)
    last = encoding.text_mask.sum(1) - 1
    assert torch.allclose(
        torch.nn.functional.normalize(output.text[torch.arange(3), last], dim=-1), expected.text_embeds, atol=TOLERANCE
    )


def test_pictures_are_cut_as_transformers_does(clip: Clip) -> None:
    from PIL import Image

    from vlrun.features.pictures import scaled

    rng = np.random.default_rng(0)
    for height, width in ((40, 61), (61, 40), (50, 50), (17, 90)):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size=16, do_normalize=False, do_rescale=False
        )
        theirs = processor(images=picture, return_tensors="np")["pixel_values"][0]
        ours = np.asarray(scaled(picture, SHAPE)).transpose(2, 0, 1)
        # torchvision's filter and Pillow's round differently
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_the_vector_of_a_text_is_that_of_its_last_token_whatever_its_id(
    wordpiece: WordPiece, config: transformers.CLIPConfig
) -> None:
    config.text_config.eos_token_id = 2  # of the first published files, where transformers looks for the largest id
    clip = Clip(wordpiece, config).eval()
    encoding, _ = encoded(clip)
    with torch.inference_mode():
        vectors = clip.text_part(encoding)["vector"]
        alone = clip.text_part(clip.pair_encoder(12)([Pair(TEXTS[2], "image_2")], make_pictures(["image_2"], SHAPE)))
    assert torch.allclose(vectors[2:], alone["vector"], atol=TOLERANCE)


def test_the_sizes_of_weights_are_seen(clip: Clip) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in clip.state_dict().items()}

    options = ClipConfig.options_of_weights(shapes, num_heads=4)

    assert options is not None
    assert (options["image_size"], options["patch_size"], options["projection_size"]) == (16, 8, 8)
    assert (options["num_layers"], options["vision_layers"], options["vision_hidden_size"]) == (2, 2, 24)


def test_a_file_of_another_network_is_refused(clip: Clip) -> None:
    with pytest.raises(CheckpointError, match="not a file of CLIPModel of transformers; it begins with text_model"):
        translate_clip({name: tensor for name, tensor in clip.state_dict().items() if "logit" not in name})

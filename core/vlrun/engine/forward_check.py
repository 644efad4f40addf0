"""What a network computes from a fixed input: kept with imported weights, computed again by ``runner weights check``.

The input needs no data and no vocabulary file, so the check asks one thing: do these weights in this code still give
these numbers?
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from vlrun.blocks.transformer_config import TextTransformerConfig
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.engine.model import matching_head_names
from vlrun.errors import CheckpointError
from vlrun.files import write_text
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.examples import Pair, RegionBatch
from vlrun.interfaces.pictures import PictureShape
from vlrun.plugins.entries import Entry

INPUT_VERSION = 1
"""Of the fixed input; numbers of another input are not compared."""

_WORDS = (7, 3)  # per text: one of them is padded
_IMAGES = ("first", "second")
_REGIONS = 5
_KEPT = 32  # numbers of each output
_HEIGHT, _WIDTH = 480.0, 640.0
_FEATURE_SIZE = 2048  # where the options of a backbone do not say it


def described(entry: Entry, tensors: Mapping[str, Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """What an imported file records of its network: ``options`` and ``forward_check``, each only where it can be said.

    Args:
        num_heads: as the file's own configuration says; None takes what networks of this width have.

    Raises:
        CheckpointError: there is no network of such sizes.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    options: dict[str, Any] | None = entry.load_config().options_of_weights(shapes, num_heads)
    if options is None:
        return {}
    try:
        check = forward_check(entry, options, tensors)
    except ValidationError as error:  # of options that cannot be, such as heads that do not divide the width
        raise CheckpointError([f"backbone '{entry.name}': {problem['msg']}" for problem in error.errors()]) from error
    return {"options": options} if check is None else {"options": options, "forward_check": check}


def forward_check(entry: Entry, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """What the backbone gives for the fixed input, JSON-ready; None if the tensors do not fill it."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        config = _config(entry, options, tensors, Path(folder))
        if config is None:
            return None
        backbone: Backbone = entry.build(config)
    own = backbone.state_dict()
    filled = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
    may_lack = tuple(f"{part}." for part in backbone.optional_weights)
    if any(name not in filled and not name.startswith(may_lack) for name in own):
        return None
    backbone.load_state_dict(filled, strict=False)
    rows = len(tensors[config.word_table]) if isinstance(config, TextTransformerConfig) else 0
    feature_size = getattr(config, "region_feature_size", _FEATURE_SIZE)
    images = _pictures(_IMAGES, shape) if (shape := config.pictures()) else _regions(_IMAGES, feature_size)
    outputs = _outputs(backbone.eval(), rows, options.get("max_positions", sum(_WORDS)), images)
    if not all(name in filled for name in matching_head_names(backbone)):
        del outputs["matching"]
    return {"input": INPUT_VERSION, "outputs": outputs}


def _config(entry: Entry, options: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> Any:
    """Options of the backbone, with a vocabulary made up for the fixed input; None if its size is not known."""
    config_class = entry.load_config()
    values: dict[str, Any] = {"name": entry.name, **options}
    if issubclass(config_class, TextTransformerConfig):
        if config_class.word_table not in tensors:
            return None
        rows = len(tensors[config_class.word_table])
        tokens = [*SPECIAL_TOKENS, *(_word(number) for number in range(len(SPECIAL_TOKENS), rows))]
        values["vocabulary"] = folder / "vocab.txt"
        write_text(values["vocabulary"], "".join(f"{token}\n" for token in tokens[:rows]))
    return config_class(**values)


def _word(number: int) -> str:
    return f"w{number}"


def _outputs(backbone: Backbone, rows: int, max_positions: int, images: RegionBatch) -> dict[str, list[float]]:
    """Numbers from everywhere in each output, without what is padding."""
    first, count = len(SPECIAL_TOKENS), max(1, rows - len(SPECIAL_TOKENS))
    words = [_word(first + place * 7919 % count) for place in range(sum(_WORDS))]
    texts = (" ".join(words[: _WORDS[0]]), " ".join(words[_WORDS[0] :]))
    encode = backbone.pair_encoder(min(sum(_WORDS), max_positions))
    pairs = [Pair(text, image) for text, image in zip(texts, _IMAGES, strict=True)]
    encoding = encode(pairs, images)
    with torch.inference_mode():
        output = backbone(encoding)
        logits = backbone.matching_head()(output.pooled)
    values = {
        "text": output.text[output.text_mask],
        "regions": output.regions[output.region_mask],
        "pooled": output.pooled,
        "matching": logits,
    }
    return {name: _evenly(tensor.flatten()) for name, tensor in values.items()}


def _evenly(values: Tensor) -> list[float]:
    places = np.unique(np.linspace(0, len(values) - 1, _KEPT).astype(np.int64))
    return [round(float(values[int(place)]), 7) for place in places]


def _regions(image_ids: tuple[str, ...], feature_size: int) -> RegionBatch:
    """Regions made by a formula: positive features, boxes within the image, one region less in the second image."""
    shape = (len(image_ids), _REGIONS, feature_size)
    features = np.abs(np.sin(np.arange(np.prod(shape), dtype=np.float64) * 0.7)).reshape(shape).astype(np.float32)
    share = (np.arange(len(image_ids) * _REGIONS, dtype=np.float32).reshape(shape[:2]) + 1) / (2 * _REGIONS + 1)
    corners = [share * 0.4 * _WIDTH, share * 0.5 * _HEIGHT, (0.5 + share * 0.4) * _WIDTH, (0.6 + share * 0.3) * _HEIGHT]
    mask = np.ones(shape[:2], bool)
    mask[1, -1] = False
    boxes = np.stack(corners, axis=-1).astype(np.float32)
    features[~mask], boxes[~mask] = 0, 0
    sizes = np.tile(np.array([[_HEIGHT, _WIDTH]], np.float32), (len(image_ids), 1))
    return RegionBatch(image_ids, features, boxes, mask, sizes)


def _pictures(image_ids: tuple[str, ...], shape: PictureShape) -> RegionBatch:
    """Pictures made by a formula, the second one square."""
    originals = [(int(_HEIGHT), int(_WIDTH)), (int(_HEIGHT), int(_HEIGHT))]
    sizes = [(shape.shorter, shape.shorter) if shape.crop else shape.scaled(*size) for size in originals]
    pixels = np.zeros((len(image_ids), *np.max(sizes, axis=0), 3), np.uint8)
    for row, (height, width) in enumerate(sizes):
        waves = 127.5 + 127.5 * np.sin(np.arange(height * width * 3, dtype=np.float64) * 0.7 / (row + 1))
        pixels[row, :height, :width] = waves.reshape(height, width, 3).astype(np.uint8)
    boxes = np.array([[[0, 0, width, height]] for height, width in originals], np.float32)
    count = len(image_ids)
    features, mask = np.zeros((count, 1, 0), np.float32), np.ones((count, 1), bool)
    return RegionBatch(
        image_ids,
        features,
        boxes,
        mask,
        np.array(originals, np.float32),
        pixels=pixels,
        pixel_sizes=np.array(sizes, np.int64),
    )

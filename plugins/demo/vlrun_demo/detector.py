"""The demo's detector: finds the things in pictures of this world, as bottom-up attention does in photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlrun import CheckpointError, DataError, Detector, RegionFeatures
from vlrun.blocks.pictures import OWN_FORMATS, open_picture
from vlrun_demo.detector_network import STRIDE, DemoNetwork

if TYPE_CHECKING:
    from vlrun_demo.detector_config import DemoDetectorConfig

SHORT, LONG = 256, 1024
"""Side of the input that the shorter side of a picture gets, and the most that the longer one may have."""

_MEAN, _SPREAD = 204.0, 51.0  # of a channel; most of a picture is its light background
_SURE = 0.2  # from which probability on a region counts, where fewer may be given than there are
_PROPOSALS = 100


class DemoDetector(Detector):
    """Regions are proposals, as in bottom-up attention; classes are kinds of things, attributes are colours."""

    name = "demo-world"

    def __init__(self, config: DemoDetectorConfig) -> None:
        self._network, digest = load_network(config.weights_file)
        self.boxes, self._fewest, self._most = config.boxes, config.fewest_boxes, config.most_boxes
        self.weights = f"sha256:{digest[:16]}"

    def describe(self) -> str:
        return f"{self.name}: detector of the demo world, input {SHORT}/{LONG} RGB, boxes are proposals"

    def read(self, file: Path) -> tuple[Tensor, tuple[int, int]]:
        picture = open_picture(file, formats=OWN_FORMATS)
        return prepared(picture)[0], (picture.height, picture.width)

    @torch.inference_mode()
    def detect(self, image_id: str, picture: Any) -> RegionFeatures:
        pixels, (height, width) = picture
        network = self._network
        boxes = network.boxes(*network.proposals(pixels), (pixels.shape[2], pixels.shape[3]), _PROPOSALS)
        if not len(boxes):
            raise DataError("no region was found")
        vectors = network.vectors(pixels, boxes)
        scores, kinds = network.words["kind"](vectors).softmax(dim=1)[:, 1:].max(dim=1)
        best = scores.sort(descending=True, stable=True).indices
        kept = best[: min(self._most, max(self._fewest, int((scores >= _SURE).sum())))]
        colour_scores, colours = network.words["colour"](vectors[kept]).softmax(dim=1).max(dim=1)
        return RegionFeatures(
            image_id,
            (vectors[kept] * network.loudness).numpy(),
            (boxes[kept] * torch.tensor([width / pixels.shape[3], height / pixels.shape[2]] * 2)).numpy(),
            height,
            width,
            kinds[kept].numpy().astype(np.int32),
            colours.numpy().astype(np.int32),
            scores[kept].numpy(),
            colour_scores.numpy(),
        )


def prepared(picture: Image.Image) -> tuple[Tensor, float]:
    """The (1, 3, H, W) input of the network for a picture in RGB, and how many times as large it is.

    Raises:
        DataError: it is too small or too narrow.
    """
    scale = min(SHORT / min(picture.size), LONG / max(picture.size))
    size = round(picture.width * scale), round(picture.height * scale)
    if min(*picture.size, *size) < STRIDE:
        raise DataError(f"{picture.width} x {picture.height} pixels are too few or too narrow")
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].sub_(_MEAN).div_(_SPREAD), scale


def save_network(network: DemoNetwork, file: Path) -> None:
    """Writes the weights in half precision, which halves the file and changes no box by a pixel."""
    from safetensors.torch import save_file

    save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, file)


def load_network(file: Path) -> tuple[DemoNetwork, str]:
    """The network in a file, and the file's SHA-256.

    Raises:
        CheckpointError: it holds no such network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    network = DemoNetwork()
    try:
        content = file.read_bytes()
        network.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file}: no weights of the demo's detector: {str(error).splitlines()[0]}") from error
    return network.eval(), hashlib.sha256(content).hexdigest()

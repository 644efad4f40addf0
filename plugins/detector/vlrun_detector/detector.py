"""The detectors that ``runner features extract`` can name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlrun import CheckpointError, ConfigError, DataError, Detector, RegionFeatures, read_weights
from vlrun_detector import anchors as anchor_boxes
from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.config import BottomUpConfig
from vlrun_detector.hf import HfProfile
from vlrun_detector.images import read_image
from vlrun_detector.network import Network
from vlrun_detector.profile import Prepared, Profile
from vlrun_detector.weights import ANCHORS, CAFFE_FORMAT, HF_FORMAT, OWNER


class BottomUp(Detector):
    """Faster R-CNN with ResNet-101 C4, as one of the two pipelines uses it."""

    def __init__(
        self,
        network: Network,
        profile: Profile,
        *,
        weights: str = "",
        made_of: str = "",
        device: str = "cpu",
        regions_at_once: int = 16,
    ) -> None:
        """``weights`` is their hash and ``made_of`` says more of them, both for the store."""
        self.network = network.to(device)
        self.profile = profile
        least, most = profile.least, profile.most
        self.weights, self.boxes = weights, f"{least}" if least == most else f"{least}-{most}"
        self._made_of = made_of
        self._device, self._regions_at_once = device, regions_at_once

    @classmethod
    def caffe(cls, config: BottomUpConfig) -> BottomUp:
        """With the pipeline of the original."""
        return cls._made(config, CaffeProfile())

    @classmethod
    def hf(cls, config: BottomUpConfig) -> BottomUp:
        """With the pipeline of Hugging Face's port."""
        return cls._made(config, HfProfile())

    @classmethod
    def _made(cls, config: BottomUpConfig, profile: Profile) -> BottomUp:
        state, metadata = read_weights(config.weights)
        if metadata.get("backbone") != OWNER:
            raise CheckpointError(
                f"{config.weights} holds no weights of a bottom-up detector; import them: runner weights import "
                f"--from {CAFFE_FORMAT} or {HF_FORMAT} FILE {config.weights}"
            )
        anchors, kind = _checked_anchors(state[ANCHORS], config)
        network = Network.load(state, state[ANCHORS] if isinstance(profile, HfProfile) else anchors)
        return cls(
            network.in_half() if config.precision == "bfloat16" else network,
            replace(profile, least=config.fewest_boxes, most=config.most_boxes),
            weights=f"sha256:{str(metadata.get('source_sha256'))[:16]}",
            made_of=f"weights of {metadata.get('source')}, anchors {kind}, {config.precision}",
            device=_device(config.device),
            regions_at_once=config.regions_at_once,
        )

    def describe(self) -> str:
        return f"{self.profile.name}: bottom-up attention, {self.profile.describe()}, {self._made_of}"

    def read(self, file: Path) -> tuple[Prepared, tuple[int, int]]:
        pixels = read_image(file)
        return self.profile.prepare(pixels), (pixels.shape[0], pixels.shape[1])

    def detect(self, image_id: str, picture: Any) -> RegionFeatures:
        prepared, (height, width) = picture
        prepared = replace(prepared, pixels=prepared.pixels.to(self._device, non_blocking=True))
        found = self.profile.detect(self.network, prepared, self._regions_at_once)
        if not len(found.keep):
            raise DataError("no region was found")
        return RegionFeatures(
            image_id,
            features=_array(found.features),
            boxes=_array(found.boxes),
            height=height,
            width=width,
            class_ids=_array(found.class_ids),
            attribute_ids=_array(found.attribute_ids),
            class_scores=_array(found.class_scores),
            attribute_scores=_array(found.attribute_scores),
        )


def _checked_anchors(anchors: Tensor, config: BottomUpConfig) -> tuple[Tensor, str]:
    """The anchors for inclusive pixels, and what they are."""
    found = anchor_boxes.recognised(anchors)
    if found is not None:
        kind, used = found
        return used, kind
    if config.anchors == "known":
        raise CheckpointError(
            f"{config.weights}: its anchors are neither those of the Caffe original nor those that Hugging Face's "
            "code generates; anchors=any uses them all the same"
        )
    return anchors, "of its own"


def _device(name: str) -> str:
    """The device that ``auto`` means here; raises ConfigError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name} cannot be used here: {str(error).splitlines()[0]}") from error
    return name


def _array(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()

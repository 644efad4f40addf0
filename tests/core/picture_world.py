"""The toy world with eyes: a backbone that reads pictures, and pictures to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy as np
import torch
from PIL import Image
from torch import nn
from toy_world import NUM_IMAGES, ToyBackbone, ToyConfig, vlrun_datasets, vlrun_tasks

from vlrun import BackboneOutput, Encoding, Entry, Pair, PictureShape, RegionBatch, hookimpl

SIDE = 4

__all__ = ["SIDE", "SeeingBackbone", "SeeingConfig", "vlrun_backbones", "vlrun_datasets", "vlrun_tasks"]


class SeeingConfig(ToyConfig):
    side: int = SIDE

    def pictures(self) -> PictureShape:
        return PictureShape(self.side, crop=True)


class SeeingBackbone(ToyBackbone):
    """Looks at all pixels at once."""

    config: SeeingConfig

    def __init__(self, config: SeeingConfig) -> None:
        super().__init__(config)
        self.project = nn.Linear(3 * config.side**2, 5)

    def pair_encoder(self, max_text_tokens: int) -> SeeingEncoder:  # type: ignore[override]
        return SeeingEncoder()

    def forward(self, encoding: Encoding) -> BackboneOutput:
        assert encoding.pixels is not None
        seen = self.dropout(torch.tanh(self.project(encoding.pixels.flatten(1) / 255)))
        scale = encoding.token_ids.float().mean(1, keepdim=True)
        return BackboneOutput(seen[:, None], seen[:, None], seen * scale, encoding.text_mask, encoding.region_mask)


class SeeingEncoder:
    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        assert regions.pixels is not None
        count = len(pairs)
        return Encoding(
            token_ids=torch.tensor([[1 + int(pair.text.split()[1]) % 3] for pair in pairs]),
            text_mask=torch.ones(count, 1, dtype=torch.bool),
            region_features=torch.zeros(count, 1, 0),
            boxes=torch.zeros(count, 1, 4),
            region_mask=torch.ones(count, 1, dtype=torch.bool),
            pixels=torch.from_numpy(regions.pixels.transpose(0, 3, 1, 2).copy()),
        )


@hookimpl
def vlrun_backbones() -> list[Entry]:
    return [
        Entry(name="seeing", summary="", config="picture_world:SeeingConfig", factory="picture_world:SeeingBackbone")
    ]


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (10 + number, 12, 3), np.uint8)
    return Image.fromarray(pixels)


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        picture(number).save(folder / f"img{number}.png")


def write_lmdb(folder: Path, path: Path) -> None:
    with lmdb.open(str(path), subdir=False, map_size=2**20) as file, file.begin(write=True) as transaction:
        for each in folder.iterdir():
            transaction.put(each.name.encode(), each.read_bytes())

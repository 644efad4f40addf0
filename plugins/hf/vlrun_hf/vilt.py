"""ViLT of transformers (Kim et al. 2021, "ViLT: Vision-and-Language Transformer Without Convolution or Region
Supervision").

Shapes: P pairs, L tokens, R patches, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, Pair, PairEncoder, RegionBatch
from vlrun.blocks.heads import init_layers, initial_std
from vlrun.blocks.pair_encoding import LENGTH_STEP, check_text_length
from vlrun.blocks.tokenizer import TextTokenizer, read_tokenizer
from vlrun_hf.regions import additive_mask, mask_of
from vlrun_hf.single_stream import bert_options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlrun_hf.config import ViltConfig

MATCHING_HEAD = "itm_score"
_TEXT, _FIRST_IMAGE, _KINDS = 0, 1, 3  # rows of the table of token types: text, first and second image


class Vilt(Backbone):
    """The network of transformers. A patch is a region: (P, R, 3 x side x side) bytes with its place.

    The hidden states of the picture's [CLS] are computed and not shown. Which patches there are depends on the picture
    alone: transformers draws an order for them, which changes no output.
    """

    wordpiece: TextTokenizer
    optional_weights = (MATCHING_HEAD,)
    unused_weights = ("mlm_score",)
    depth_options: ClassVar[Mapping[str, str]] = {"vilt.encoder.layer": "num_layers"}

    def __init__(self, tokenizer: TextTokenizer, config: transformers.ViltConfig, mean_pixel: float = 0.0) -> None:
        """Builds the network, with random weights.

        Args:
            mean_pixel: of pictures, in [-1, 1]. A patch of such pixels starts as 0. Otherwise all patches of light
                pictures start as nearly the same vector, and the norm of the first layer hides what is left of light.
        """
        super().__init__()
        self.wordpiece, self.vocabulary_hash = tokenizer, tokenizer.hash
        self.hidden_size: int = config.hidden_size
        self.patch_size: int = config.patch_size
        self.max_positions: int = config.max_position_embeddings
        self.vilt = transformers.ViltModel(config)
        self.itm_score = nn.Linear(self.hidden_size, 2)
        init_layers(self, self.hidden_size)
        embeddings = self.vilt.embeddings
        tables = (embeddings.cls_token, embeddings.position_embeddings, embeddings.patch_embeddings.projection.weight)
        for table in tables:
            nn.init.normal_(table, std=initial_std(self.hidden_size))
        layer = embeddings.patch_embeddings.projection
        layer.bias.data = -mean_pixel * layer.weight.data.sum(dim=(1, 2, 3))

    @classmethod
    def from_config(cls, config: ViltConfig) -> Vilt:
        """Builds the network of an experiment, with random weights."""
        tokenizer, sizes = read_tokenizer(config.vocabulary), config.sizes
        options = bert_options(tokenizer, sizes, config.dropout)
        options["attention_probs_dropout_prob"] = 0.0  # the authors drop out nothing there
        return cls(
            tokenizer,
            transformers.ViltConfig(
                **options,
                num_hidden_layers=sizes.num_layers,
                image_size=sizes.image_size,
                patch_size=sizes.patch_size,
                modality_type_vocab_size=_KINDS,
            ),
            config.mean_pixel,
        )

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """Words and patches, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, "vilt")
        return ViltPairEncoder(self.wordpiece, max_text_tokens, self.patch_size)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), patches as regions (P, R, H), pooled (P, H)."""
        text, images = self._text_states(encoding.token_ids), self._image_states(encoding)
        mask = None
        if not (encoding.full_texts and encoding.full_regions):
            mask = torch.cat([encoding.text_mask, _with_cls(encoding.region_mask)], dim=1)
        hidden = self._encoded(text, images, mask)
        length = text.shape[1]
        return BackboneOutput(
            text=hidden[:, :length],
            regions=hidden[:, length + 1 :],
            pooled=self.vilt.pooler(hidden),
            text_mask=encoding.text_mask,
            region_mask=encoding.region_mask,
        )

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded tokens, (N, L, H)."""
        return {"states": self._text_states(encoding.token_ids), "text_mask": encoding.text_mask}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The embedded patches behind a [CLS], (N, 1 + R, H)."""
        return {"states": self._image_states(encoding), "region_mask": _with_cls(encoding.region_mask)}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """All layers, for text and patches see each other from the first on."""
        states = text["states"], regions["states"]
        mask = None
        if "text_mask" in text or "region_mask" in regions:
            mask = torch.cat([mask_of(text, "text_mask", states[0]), mask_of(regions, "region_mask", states[1])], dim=1)
        pooled: Tensor = self.vilt.pooler(self._encoded(*states, mask))
        return pooled

    def matching_head(self) -> nn.Module:
        """The authors' ``itm_score``, or what was trained from it for retrieval."""
        return self.itm_score

    def _text_states(self, token_ids: Tensor) -> Tensor:
        embeddings = self.vilt.embeddings
        states: Tensor = embeddings.text_embeddings(token_ids)
        return states + embeddings.token_type_embeddings.weight[_TEXT]

    def _image_states(self, encoding: Encoding) -> Tensor:
        """(P, 1 + R, H): [CLS] and the patches, at their places among those of the table."""
        embeddings = self.vilt.embeddings
        layer, table = embeddings.patch_embeddings.projection, embeddings.position_embeddings
        pixels = encoding.region_features.to(layer.weight.dtype) / 127.5 - 1  # mean and deviation are 0.5
        patches = F.linear(pixels, layer.weight.flatten(1), layer.bias)  # a convolution without overlap
        side = round((table.shape[1] - 1) ** 0.5)
        squares = table[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        places = encoding.boxes[None, ..., :2].to(squares.dtype)  # (1, P, R, 2)
        at_places = F.grid_sample(squares, places, align_corners=True)[0].permute(1, 2, 0)  # (P, R, H)
        first = (embeddings.cls_token + table[:, :1]).expand(len(patches), -1, -1)
        states = embeddings.dropout(torch.cat([first, patches + at_places], dim=1))
        kinds = _FIRST_IMAGE + encoding.boxes[:, :1, 2].long()  # (P, 1)
        typed: Tensor = states + embeddings.token_type_embeddings(kinds)
        return typed

    def _encoded(self, text: Tensor, images: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states (P, L + 1 + R, H) after the last norm; ``mask`` (P, L + 1 + R) is True for what is real."""
        states = torch.cat([text, images], dim=1)
        added = additive_mask(mask, dtype=states.dtype)
        hidden: Tensor = self.vilt.layernorm(self.vilt.encoder(states, attention_mask=added)[0])
        return hidden


def _with_cls(region_mask: Tensor) -> Tensor:
    return F.pad(region_mask, (1, 0), value=True)


@dataclass(frozen=True)
class ViltPairEncoder:
    """Words, and the patches of pictures."""

    tokenizer: TextTokenizer
    max_text_tokens: int
    patch_size: int

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Turns pairs and pictures into tensors; ``boxes`` are a patch's x and y in [-1, 1] and its image's number."""
        assert regions.pixels is not None, "the options of this backbone ask for pictures"
        assert regions.pixel_sizes is not None, "pictures have sizes"
        token_ids, text_mask = self.tokenizer.encode_batch(
            [pair.text for pair in pairs], self.max_text_tokens, round_to=LENGTH_STEP
        )
        patches, places, mask = _patches(regions.pixels, regions.pixel_sizes, self.patch_size)
        places[..., 2] = np.array([pair.image_number for pair in pairs])[:, None]
        return Encoding(
            token_ids=torch.from_numpy(token_ids),
            text_mask=torch.from_numpy(text_mask),
            region_features=torch.from_numpy(patches),
            boxes=torch.from_numpy(places),
            region_mask=torch.from_numpy(mask),
            full_texts=bool(text_mask.all()),
            full_regions=bool(mask.all()),
        )


def _patches(
    pixels: NDArray[np.uint8], sizes: NDArray[np.int64], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """The patches of each picture, (P, R, 3 x side x side); their places, (P, R, 3); which are real, (P, R)."""
    grids = np.maximum(1, sizes // side)
    rows, columns = (int(number) for number in grids.max(axis=0))
    missing = [(0, max(0, count * side - have)) for count, have in zip((rows, columns), pixels.shape[1:3], strict=True)]
    if any(after for _, after in missing):
        pixels = np.pad(pixels, [(0, 0), *missing, (0, 0)])
    cut = pixels[:, : rows * side, : columns * side].reshape(len(pixels), rows, side, columns, side, 3)
    cut = cut.transpose(0, 1, 3, 5, 2, 4)  # (P, rows, columns, 3, side, side)
    counts = grids.prod(axis=1)
    patches = np.zeros((len(pixels), int(counts.max()), 3 * side * side), np.uint8)
    places = np.zeros((*patches.shape[:2], 3), np.float32)
    for number, (height, width) in enumerate(grids.tolist()):
        patches[number, : height * width] = cut[number, :height, :width].reshape(height * width, -1)
        y, x = np.meshgrid(_along(height), _along(width), indexing="ij")
        places[number, : height * width, 0], places[number, : height * width, 1] = x.ravel(), y.ravel()
    return patches, places, np.arange(patches.shape[1]) < counts[:, None]


def _along(count: int) -> NDArray[np.float64]:
    return np.linspace(-1, 1, count) if count > 1 else np.full(1, -1.0)

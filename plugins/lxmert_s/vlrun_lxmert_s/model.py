"""LXMERT and LXMERT-S: two streams, text and regions, that look at each other in cross-modal layers.

Shapes: P pairs, T tokens, R regions, D width of the region features, H hidden size. Parameters have the authors' names
without their leading ``bert.``, which are also those of Hugging Face's ``LxmertModel``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, PairEncoder
from vlrun.blocks.heads import init_layers
from vlrun.blocks.pair_encoding import check_text_length
from vlrun.blocks.wordpiece import WordPiece
from vlrun_lxmert_s.checkpoint import CLASSIFIERS, MATCHING_HEAD
from vlrun_lxmert_s.config import Sizes, TwoStreamConfig
from vlrun_lxmert_s.layers import CrossLayer, Pooler, SingleLayer, TextEmbeddings, VisualEmbeddings
from vlrun_lxmert_s.scoring import LxmertScoring
from vlrun_lxmert_s.text import LxmertPairEncoder

Network = TypeVar("Network", bound="Lxmert")
LayerInputs: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Of a cross-modal layer: states of text and regions, then their key masks."""


class Encoder(nn.Module):
    """Each stream through its own layers, then both through the cross-modal ones."""

    def __init__(self, sizes: Sizes, region_feature_size: int, dropout: float) -> None:
        super().__init__()
        shape = (sizes.hidden_size, sizes.num_heads, sizes.feed_forward_size, dropout)
        self.visn_fc = VisualEmbeddings(region_feature_size, sizes.hidden_size, dropout)
        self.layer = nn.ModuleList(SingleLayer(*shape) for _ in range(sizes.num_language_layers))
        self.x_layers = nn.ModuleList(CrossLayer(*shape) for _ in range(sizes.num_cross_layers))
        self.r_layers = nn.ModuleList(SingleLayer(*shape) for _ in range(sizes.num_object_layers))

    def forward(
        self, text: Tensor, features: Tensor, boxes: Tensor, text_mask: Tensor | None, region_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embedded text (P, T, H), region features (P, R, D) and boxes (P, R, 4) -> states (P, T, H), (P, R, H).

        A mask is None where nothing is padded.
        """
        regions = self.visn_fc(features, boxes)
        text, regions = self.language(text, text_mask), self.objects(regions, region_mask)
        for layer in self.x_layers:
            text, regions = layer(text, regions, _key_mask(text_mask), _key_mask(region_mask))
        return text, regions

    def language(self, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """The layers that see the text alone: (P, T, H) of embedded text."""
        for layer in self.layer:
            text = layer(text, _key_mask(text_mask))
        return text

    def objects(self, regions: Tensor, region_mask: Tensor | None) -> Tensor:
        """The layers that see the regions alone: (P, R, H) of embedded regions."""
        for layer in self.r_layers:
            regions = layer(regions, _key_mask(region_mask))
        return regions


class Lxmert(Backbone):
    """The network of Tan and Bansal 2019, "LXMERT: Learning Cross-Modality Encoder Representations from Transformers".

    Where a head uses the pooled output alone, what the last cross-modal layer does to the regions after looking at the
    text has no effect, and its parameters no gradient.
    """

    wordpiece: WordPiece
    optional_weights = (MATCHING_HEAD,)
    unused_weights = CLASSIFIERS
    layer_stacks: ClassVar[Sequence[Sequence[str]]] = (("encoder.layer", "encoder.r_layers"), ("encoder.x_layers",))
    depth_options: ClassVar[Mapping[str, str]] = {
        "encoder.layer": "num_language_layers",
        "encoder.x_layers": "num_cross_layers",
        "encoder.r_layers": "num_object_layers",
    }
    name: ClassVar[str] = "lxmert"
    numbers_words: ClassVar[bool] = False
    """Whether a token's position is the number of its word; else tokens are counted from 0."""
    pools_regions: ClassVar[bool] = False
    """Whether the first region is pooled too."""

    def __init__(
        self, wordpiece: WordPiece, sizes: Sizes, *, region_feature_size: int, num_regions: int, dropout: float
    ) -> None:
        super().__init__()
        self.wordpiece = wordpiece
        self.vocabulary_hash = wordpiece.hash
        self.hidden_size = sizes.hidden_size
        self.max_positions = sizes.max_positions
        self.region_feature_size = region_feature_size
        self.num_regions = num_regions
        self.embeddings = TextEmbeddings(wordpiece.size, sizes.max_positions, sizes.hidden_size, dropout)
        self.encoder = Encoder(sizes, region_feature_size, dropout)
        self.pooler = Pooler(sizes.hidden_size)
        init_layers(self, sizes.hidden_size)
        self._add_layers()
        with torch.random.fork_rng(devices=[]):  # beside the stream: heads of tasks start as if it was not there
            self.seq_relationship = nn.Linear(sizes.hidden_size, 2)

    def _add_layers(self) -> None:
        """The place for what a variant has besides."""

    @classmethod
    def from_config(cls: type[Network], config: TwoStreamConfig) -> Network:
        """Builds the network of an experiment, with random weights."""
        return cls(
            WordPiece(config.vocabulary),
            config.sizes,
            region_feature_size=config.region_feature_size,
            num_regions=config.num_regions,
            dropout=config.dropout,
        )

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """The text and box pipeline, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, self.name)
        return LxmertPairEncoder(
            backbone=self.name,
            wordpiece=self.wordpiece,
            max_text_tokens=max_text_tokens,
            max_positions=self.max_positions,
            numbers_words=self.numbers_words,
            num_regions=self.num_regions,
            region_feature_size=self.region_feature_size,
        )

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H), pooled (P, H)."""
        features, boxes, region_mask = self._visual_input(encoding)
        masks = _text_mask(encoding), None if encoding.full_regions else region_mask
        text, regions = self.encoder(self._embedded_text(encoding), features, boxes, *masks)
        return BackboneOutput(text, regions, self.pooled(text), encoding.text_mask, region_mask)

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The text after the layers that see it alone, (N, T, H)."""
        states = self.encoder.language(self._embedded_text(encoding), _text_mask(encoding))
        return {"states": states, "text_mask": encoding.text_mask}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The regions after the layers that see them alone, (N, R, H); LXMERT-S: with its visual [CLS], R + 1."""
        features, boxes, region_mask = self._visual_input(encoding)
        seen = None if encoding.full_regions else region_mask
        states = self.encoder.objects(self.encoder.visn_fc(features, boxes), seen)
        return {"states": states, "region_mask": region_mask}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The cross-modal layers, of which the last computes what is pooled and no more."""
        states = text["states"], regions["states"]
        masks = _key_mask(text.get("text_mask")), _key_mask(regions.get("region_mask"))
        *layers, last = self.encoder.x_layers
        for layer in layers:
            states = layer(*states, *masks)
        return self._pooled_after(last, (*states, *masks))

    def for_scoring(self, dtype: torch.dtype) -> LxmertScoring:
        """The same with the weights as they are, and products in ``dtype``."""
        layers = list(self.encoder.x_layers)
        return LxmertScoring(self, layers, self.pooled, dtype, pools_regions=self.pools_regions)

    def pooled(self, text: Tensor, regions: Tensor | None = None) -> Tensor:
        """Pools states (P, T, H) of the text; ``regions`` (P, R, H) where ``pools_regions``."""
        return self.pooler(text)

    def word_table(self) -> nn.Parameter:
        """The word embeddings, which the authors' word head is tied to."""
        return self.embeddings.word_embeddings.weight

    def matching_head(self) -> nn.Linear:
        """The authors' ``seq_relationship``, which not every file of theirs has.

        Without such weights it starts as PyTorch starts a linear layer, like the authors' retrieval head, and unlike
        all other parameters.
        """
        return self.seq_relationship

    def _embedded_text(self, encoding: Encoding) -> Tensor:
        token_ids = encoding.token_ids
        positions = encoding.position_ids
        if positions is None:
            positions = torch.arange(token_ids.shape[1], device=token_ids.device)[None]  # (1, T)
        return self.embeddings(token_ids, positions, token_types=torch.zeros_like(token_ids[:1, :1]))

    def _visual_input(self, encoding: Encoding) -> tuple[Tensor, Tensor, Tensor]:
        """Features, boxes and mask; features arrive in the type of the store, often float16."""
        dtype = self.encoder.visn_fc.visn_fc.weight.dtype
        return encoding.region_features.to(dtype), encoding.boxes.to(dtype), encoding.region_mask

    def _pooled_after(self, last: CrossLayer, inputs: LayerInputs) -> Tensor:
        """The pooled output, from what goes into the last cross-modal layer."""
        return self.pooled(last.first_of_text(*inputs))


class LxmertS(Lxmert):
    """The network of Liu et al. 2021, "Multi-stage Pre-training over Simplified Multimodal Pre-training Models".

    It differs from LXMERT in its sizes, in positions that count words, and in a visual [CLS] before the regions, which
    is pooled too. Its feature is one learned vector. The authors look it up with the first token id in a table of
    30,522 rows; that token is always [CLS], so we keep that row alone.
    """

    name = "lxmert-s"
    numbers_words = True
    pools_regions = True
    cls_box: Tensor

    def _add_layers(self) -> None:
        """The second pooler, and the feature and the box of the visual [CLS]."""
        self.pooler_f = Pooler(self.hidden_size)
        self.word_embeddings = nn.Embedding(1, self.region_feature_size)
        self.register_buffer("cls_box", torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), persistent=False)  # the whole image
        for added in (self.pooler_f, self.word_embeddings):
            init_layers(added, self.hidden_size)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H) without the visual [CLS], pooled (P, H)."""
        features, boxes, visual_mask = self._visual_input(encoding)
        masks = _text_mask(encoding), None if encoding.full_regions else visual_mask
        text, visual = self.encoder(self._embedded_text(encoding), features, boxes, *masks)
        return BackboneOutput(text, visual[:, 1:], self.pooled(text, visual), encoding.text_mask, encoding.region_mask)

    def _visual_input(self, encoding: Encoding) -> tuple[Tensor, Tensor, Tensor]:
        """The visual [CLS], then the regions."""
        features, boxes, region_mask = super()._visual_input(encoding)
        return (
            _put_first(self.word_embeddings.weight[None], features),
            _put_first(self.cls_box, boxes),
            nn.functional.pad(region_mask, (1, 0), value=True),
        )

    def _pooled_after(self, last: CrossLayer, inputs: LayerInputs) -> Tensor:
        return self.pooled(last.first_of_text(*inputs), last.first_of_regions(*inputs))

    def pooled(self, text: Tensor, regions: Tensor | None = None) -> Tensor:
        """The product of what both poolers give."""
        assert regions is not None, "LXMERT-S pools the visual [CLS] too"
        return self.pooler(text) * self.pooler_f(regions)


def _text_mask(encoding: Encoding) -> Tensor | None:
    return None if encoding.full_texts else encoding.text_mask


def _key_mask(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None]  # (P, 1, 1, T or R)


def _put_first(row: Tensor, rows: Tensor) -> Tensor:
    """(1, 1, D) before each of (P, R, D)."""
    return torch.cat([row.expand(len(rows), -1, -1), rows], dim=1)

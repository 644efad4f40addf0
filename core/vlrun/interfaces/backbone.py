"""The backbone interface: a pre-trained encoder that turns text-image pairs into hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vlrun.interfaces.examples import Pair, RegionBatch
from vlrun.interfaces.tensors import BackboneOutput, Encoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Vocabulary(Protocol):
    """What masked language modelling has to know of a tokeniser.

    Attributes:
        size: number of tokens.
        pad_id, unknown_id, cls_id, sep_id, mask_id: ids of the special tokens.
    """

    size: int
    pad_id: int
    unknown_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def word_starts(self) -> NDArray[np.bool_]:
        """(size,) True for a token that begins a word, False for one that continues it."""
        ...

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, uncut and without special ones around it."""
        ...


class PairEncoder(Protocol):
    """Turns pairs and their region features into tensors. Picklable; runs in loader workers; draws nothing."""

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Row i of ``regions`` belongs to ``pairs[i]``; boxes arrive in pixels and leave as the backbone wants them.

        Where the options of the backbone ask for pictures, ``regions`` has them as ``pixels``, and one region for each
        image, without features. Encodings have placeholders for what a backbone does not read.

        Features leave as they come, cut or padded with zeros to R regions. Where the core sees that on the first
        batch, it gives zeros and puts in the features later, for instance those that are on the device already.
        """
        ...


class PairNetwork(Protocol):
    """What scores pairs from what was computed of texts and of images alone; see the methods of ``Backbone``."""

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """What depends on the texts alone."""
        ...

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """What depends on the images alone."""
        ...

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The pooled output of pairs, (P, H)."""
        ...


class Backbone(nn.Module, ABC):
    """A pre-trained encoder of text-image pairs.

    Attributes:
        hidden_size: H, the width of all hidden states.
        vocabulary_hash: identifies the tokeniser's vocabulary; stored in checkpoints, compared when they are loaded.
        wordpiece: the vocabulary of the token ids, such as what ``vlrun.blocks.tokenizer.read_tokenizer`` gives, or
            None; masked language modelling needs one.
        reads_classes: whether the pair encoder gets the detector's classes and attributes, where the store has them;
            ``vlrun.blocks.object_tags`` makes words of them.
        optional_weights: parts of the network that a file of weights may lack, such as the matching head. A part is
            what the dotted name of a tensor begins with.
        unused_weights: parts that a file of weights may have and this network does not, such as heads of
            pre-training. Any other tensor that the network has no place for is an error.
        depth_options: stack of layers -> the option that sets its depth, for messages.
        two_towers: whether no layer sees both a text and an image, so that ``similarity`` scores every text with every
            image by one product of matrices. Both parts are then one tensor, ``vector`` (N, H), and outputs have them.
        layer_stacks: the stacks of layers from the inputs on, those in one tuple side by side, for ``layer_decay``;
            empty: those of ``depth_options``, one after the other.
    """

    hidden_size: int
    vocabulary_hash: str = ""
    wordpiece: Vocabulary | None = None
    reads_classes: bool = False
    two_towers: bool = False
    optional_weights: ClassVar[Sequence[str]] = ()
    unused_weights: ClassVar[Sequence[str]] = ()
    depth_options: ClassVar[Mapping[str, str]] = {}
    layer_stacks: ClassVar[Sequence[Sequence[str]]] = ()

    @abstractmethod
    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """The text and box pipeline of this backbone; texts are cut to ``max_text_tokens``, special tokens included."""

    @abstractmethod
    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), regions (P, R, H), pooled (P, H)."""

    @abstractmethod
    def matching_head(self) -> nn.Module:
        """The image-text matching head: pooled (P, H) -> logits (P, 2); class 1 means that text and image match.

        Part of the network from its construction on, so that loading weights does not depend on the order of calls.
        """

    def word_table(self) -> nn.Parameter | None:
        """The word embeddings (V, H), which heads that score words are tied to; None, by default, if there are none."""
        return None

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """What depends on the texts alone, computed once for a text that is scored with many images.

        Args:
            encoding: of N texts. Its regions are placeholders: only ``token_ids``, ``position_ids`` and ``text_mask``
                may be read.

        Returns:
            Tensors with one row per text, (N, ...). ``text_mask`` is among them if anything is masked: True for what
            is real. By default nothing is computed: the fields of the encoding.
        """
        part = {"token_ids": encoding.token_ids, "text_mask": encoding.text_mask}
        return part if encoding.position_ids is None else {**part, "position_ids": encoding.position_ids}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """What depends on the images alone, computed once for an image that is scored with many texts.

        Args:
            encoding: of N images. Its texts are placeholders: only ``region_features``, ``boxes``, ``region_mask``,
                ``pixels``, ``tag_ids`` and ``tag_mask`` may be read.

        Returns:
            Tensors with one row per image, (N, ...). ``region_mask`` is among them if anything is masked: True for
            what is real, as wide as what it masks (a backbone may add rows, such as a visual [CLS]). By default
            nothing is computed: the fields of the encoding.
        """
        fields = {
            "region_features": encoding.region_features,
            "boxes": encoding.boxes,
            "region_mask": encoding.region_mask,
            "pixels": encoding.pixels,
            "tag_ids": encoding.tag_ids,
            "tag_mask": encoding.tag_mask,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The pooled output of P pairs: row i of ``text`` with row i of ``regions``.

        In evaluation mode it is what ``forward`` calls ``pooled``, up to rounding. A backbone that overrides it can
        start from parts that are computed already and leave out what the pooled output does not need.

        Args:
            text: rows of what ``text_part`` gave, P of them. They may repeat and be expanded (stride 0) views, so
                nothing may be written into them. ``text_mask`` is absent where no text is padded.
            regions: the same of ``region_part``, with ``region_mask``.

        Returns:
            (P, H).
        """
        token_ids, boxes = text["token_ids"], regions["boxes"]
        encoding = Encoding(
            token_ids=token_ids,
            text_mask=text.get("text_mask", torch.ones_like(token_ids, dtype=torch.bool)),
            region_features=regions["region_features"],
            boxes=boxes,
            region_mask=regions.get("region_mask", torch.ones_like(boxes[..., 0], dtype=torch.bool)),
            position_ids=text.get("position_ids"),
            pixels=regions.get("pixels"),
            tag_ids=regions.get("tag_ids"),
            tag_mask=regions.get("tag_mask"),
        )
        output: BackboneOutput = self(encoding)
        return output.pooled

    def similarity(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The logits of a match of every text with every image; only for ``two_towers``.

        Retrieval scores whole blocks of pairs with it, in place of ``pooled_output`` and ``matching_head``, which give
        the same up to rounding: of the pooled output of a pair the head makes (0, this logit).

        Args:
            text: rows of what ``text_part`` gave, N of them.
            regions: rows of what ``region_part`` gave, M of them.

        Returns:
            (M, N), in full precision.
        """
        raise NotImplementedError(f"{type(self).__name__} has no two towers")

    def for_scoring(self, dtype: torch.dtype) -> PairNetwork | None:
        """What scores many pairs with the weights as they are now, which stay: they may be copied, cast and joined.

        Its parts go to its own ``pooled_output`` alone, which gives what this class's gives, up to rounding. It is used
        in evaluation mode and without gradients; its parts are computed under autocast and its pooled output is not.

        Args:
            dtype: of the products: half precision under autocast, else that of the weights.

        Returns:
            None, by default: the backbone itself is used.
        """
        return None

"""CLIP of transformers (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"):
two towers, one for texts and one for pictures, whose vectors are compared.

Shapes: P pairs, L tokens, R patches, H length of the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import transformers
from torch import Tensor

from vlrun import Backbone, BackboneOutput, Encoding, Pair, PairEncoder, RegionBatch
from vlrun.blocks.heads import TwoTowerHead
from vlrun.blocks.pair_encoding import LENGTH_STEP, check_text_length
from vlrun.blocks.tokenizer import TextTokenizer, read_tokenizer

if TYPE_CHECKING:
    from vlrun_hf.config import ClipConfig

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of R, G and B in [0, 1]; clip/clip.py of github.com/openai/CLIP
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Clip(Backbone):
    """The towers of transformers' ``CLIPModel``, with its names.

    The pooled output of a pair is the product of both vectors, whose mean is their cosine; the states of tokens and
    patches are projected as the vectors are. A token sees only those before it, and the last one gives the vector.
    """

    wordpiece: TextTokenizer
    two_towers = True
    layer_stacks: ClassVar[Sequence[Sequence[str]]] = (("text_model.encoder.layers", "vision_model.encoder.layers"),)
    depth_options: ClassVar[Mapping[str, str]] = {
        "text_model.encoder.layers": "num_layers",
        "vision_model.encoder.layers": "vision_layers",
    }
    mean: Tensor
    deviation: Tensor

    def __init__(self, tokenizer: TextTokenizer, config: transformers.CLIPConfig) -> None:
        super().__init__()
        self.wordpiece, self.vocabulary_hash = tokenizer, tokenizer.hash
        self.hidden_size: int = config.projection_dim
        self.max_positions: int = config.text_config.max_position_embeddings
        vision = config.vision_config
        self.num_patches: int = (vision.image_size // vision.patch_size) ** 2
        network = transformers.CLIPModel(config)
        self.text_model, self.vision_model = network.text_model, network.vision_model
        self.text_projection, self.visual_projection = network.text_projection, network.visual_projection
        self.matching = TwoTowerHead(config.logit_scale_init_value)
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)

    @classmethod
    def from_config(cls, config: ClipConfig) -> Clip:
        """Builds the network of an experiment, with random weights."""
        tokenizer, sizes = read_tokenizer(config.vocabulary), config.sizes
        text = {
            "vocab_size": tokenizer.size,
            "hidden_size": sizes.hidden_size,
            "num_hidden_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "intermediate_size": sizes.feed_forward_size,
            "max_position_embeddings": sizes.max_positions,
            "hidden_act": config.activation,
            "attention_dropout": config.dropout,
            "bos_token_id": tokenizer.cls_id,
            "eos_token_id": tokenizer.sep_id,
            "pad_token_id": tokenizer.pad_id,
        }
        vision = {
            "hidden_size": sizes.vision_hidden_size,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "intermediate_size": sizes.vision_feed_forward_size,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            "hidden_act": config.activation,
            "attention_dropout": config.dropout,
        }
        return cls(
            tokenizer,
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.projection_size),
        )

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        """Tokens and whole pictures, for texts of ``max_text_tokens`` at the most."""
        check_text_length(max_text_tokens, self.max_positions, "clip")
        return ClipPairEncoder(self.wordpiece, max_text_tokens, self.num_patches)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, L, H), patches as regions (P, R, H), pooled (P, H)."""
        tokens, image = self._token_states(encoding), self._image_output(encoding)
        text = self.matching.vectors(self.text_projection(_last(tokens, encoding.text_mask)))
        picture = self.matching.vectors(self.visual_projection(image.pooler_output))
        patches = self.vision_model.post_layernorm(image.last_hidden_state[:, 1:])
        return BackboneOutput(
            text=self.text_projection(tokens),
            regions=self.visual_projection(patches),
            pooled=self.matching.pooled(text, picture),
            text_mask=encoding.text_mask,
            region_mask=encoding.region_mask,
            vectors=(text, picture),
        )

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The vectors of texts, (N, H)."""
        last = _last(self._token_states(encoding), encoding.text_mask)
        return {"vector": self.matching.vectors(self.text_projection(last))}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        """The vectors of pictures, (N, H)."""
        pooled = self._image_output(encoding).pooler_output
        return {"vector": self.matching.vectors(self.visual_projection(pooled))}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The product of the vectors."""
        return self.matching.pooled(text["vector"], regions["vector"])

    def similarity(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        """The logits of a match of N texts with M pictures, (M, N)."""
        return self.matching.similarity(text["vector"], regions["vector"])

    def matching_head(self) -> TwoTowerHead:
        """Scale and bias of the cosine."""
        return self.matching

    def _token_states(self, encoding: Encoding) -> Tensor:
        """(P, L, width of the text tower). No mask: what is padding stands after everything that counts."""
        states: Tensor = self.text_model(input_ids=encoding.token_ids).last_hidden_state
        return states

    def _image_output(self, encoding: Encoding) -> transformers.modeling_outputs.BaseModelOutputWithPooling:
        assert encoding.pixels is not None, "the options of this backbone ask for pictures"
        pixels = (encoding.pixels.to(self.mean.dtype) - self.mean) / self.deviation
        return self.vision_model(pixel_values=pixels)


def _last(states: Tensor, text_mask: Tensor) -> Tensor:
    """The states of the last real tokens, (P, width)."""
    return states[torch.arange(len(states), device=states.device), text_mask.sum(dim=1) - 1]


@dataclass(frozen=True)
class ClipPairEncoder:
    """Tokens, and pictures as they come."""

    tokenizer: TextTokenizer
    max_text_tokens: int
    num_patches: int

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Turns pairs and pictures into tensors; a patch is a region of which nothing is said but that it is there."""
        assert regions.pixels is not None, "the options of this backbone ask for pictures"
        token_ids, text_mask = self.tokenizer.encode_batch(
            [pair.text for pair in pairs], self.max_text_tokens, round_to=LENGTH_STEP
        )
        shape = (len(pairs), self.num_patches)
        return Encoding(
            token_ids=torch.from_numpy(token_ids),
            text_mask=torch.from_numpy(text_mask),
            region_features=torch.zeros(*shape, 0),
            boxes=torch.zeros(*shape, 4),
            region_mask=torch.ones(shape, dtype=torch.bool),
            full_texts=bool(text_mask.all()),
            full_regions=True,
            pixels=torch.from_numpy(np.ascontiguousarray(regions.pixels.transpose(0, 3, 1, 2))),
        )

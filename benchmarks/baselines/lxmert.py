"""LXMERT as its program computes it, in the layout of our weights; and as transformers does, where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from written_out import ABOUT, EPS, NAME, BertAdam, additive_mask, attention, gelu

from vlrun import Backbone, BackboneOutput, Baseline, Encoding

TRANSFORMERS = "transformers' LxmertModel, fp32"
ON_OURS = "on our batches, with our optimiser"
BOX_SIZE = 4
NUM_TOKEN_TYPES = 2


def baselines(backbone: Backbone) -> list[Baseline]:
    """The network of the paper's program and that of transformers, with the weights of ``backbone``."""
    network = WrittenOutLxmert(backbone)
    load(network, backbone)
    return [Baseline(NAME, ABOUT, network, BertAdam), *of_transformers(backbone)]


def load(network: nn.Module, backbone: Backbone) -> None:
    """Gives a network the weights of the backbone, which has all that it needs."""
    own, given = network.state_dict(), backbone.state_dict()
    missing = own.keys() - given.keys()
    assert not missing, f"weights that the backbone does not have: {', '.join(sorted(missing))}"
    network.load_state_dict({name: given[name] for name in own})


class Attention(nn.Module):
    """Attention over a context."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """(P, S, H) over (P, K, H) -> (P, S, H)."""
        states = self.query(hidden), self.key(context), self.value(context)
        return attention(*states, mask, self.num_heads, self.dropout)


class Output(nn.Module):
    """Linear layer, dropout, what came in, norm."""

    def __init__(self, inner_size: int, size: int, dropout: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = (
            nn.Linear(inner_size, size),
            nn.LayerNorm(size, eps=EPS),
            nn.Dropout(dropout),
        )

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """(P, S, any width) and (P, S, H) -> (P, S, H)."""
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class SelfAttention(nn.Module):
    """A stream looks at itself."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self, self.output = Attention(size, num_heads, dropout), Output(size, size, dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(P, S, H) -> (P, S, H)."""
        return self.output(self.self(hidden, hidden, mask), hidden)


class CrossAttention(nn.Module):
    """A stream looks at the other one."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.att, self.output = Attention(size, num_heads, dropout), Output(size, size, dropout)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """(P, S, H) over (P, K, H) -> (P, S, H)."""
        return self.output(self.att(hidden, context, mask), hidden)


class Intermediate(nn.Module):
    """The wide half of a feed-forward block."""

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, inner_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(P, S, H) -> (P, S, inner size)."""
        return gelu(self.dense(hidden))


class SingleLayer(nn.Module):
    """A layer of one stream."""

    def __init__(self, size: int, num_heads: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(size, num_heads, dropout)
        self.intermediate, self.output = Intermediate(size, inner_size), Output(inner_size, size, dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(P, S, H) -> (P, S, H)."""
        hidden = self.attention(hidden, mask)
        return self.output(self.intermediate(hidden), hidden)


class CrossLayer(nn.Module):
    """A cross-modal layer; both streams are always computed to the end."""

    def __init__(self, size: int, num_heads: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.visual_attention = CrossAttention(size, num_heads, dropout)
        self.lang_self_att = SelfAttention(size, num_heads, dropout)
        self.visn_self_att = SelfAttention(size, num_heads, dropout)
        self.lang_inter, self.lang_output = Intermediate(size, inner_size), Output(inner_size, size, dropout)
        self.visn_inter, self.visn_output = Intermediate(size, inner_size), Output(inner_size, size, dropout)

    def forward(self, text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(P, T, H) and (P, R, H), which keep their shapes."""
        seen = self.visual_attention(text, regions, region_mask)
        read = self.visual_attention(regions, text, text_mask)
        text, regions = self.lang_self_att(seen, text_mask), self.visn_self_att(read, region_mask)
        return self.lang_output(self.lang_inter(text), text), self.visn_output(self.visn_inter(regions), regions)


class WrittenOutLxmert(nn.Module):
    """The network, with the sizes and the names of weights of a backbone ``lxmert``."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        names = list(backbone.state_dict())
        size, words = backbone.hidden_size, backbone.wordpiece.size
        dropout = next(module.p for module in backbone.modules() if isinstance(module, nn.Dropout))
        num_heads = next(module.num_heads for module in backbone.modules() if hasattr(module, "num_heads"))
        inner_size = len(backbone.state_dict()["encoder.x_layers.0.lang_inter.dense.weight"])
        shape = (size, num_heads, inner_size, dropout)

        def depth(stack: str) -> int:
            return len({name.split(".")[2] for name in names if name.startswith(f"encoder.{stack}.")})

        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(words, size, padding_idx=0),
                "position_embeddings": nn.Embedding(backbone.max_positions, size, padding_idx=0),
                "token_type_embeddings": nn.Embedding(NUM_TOKEN_TYPES, size, padding_idx=0),
                "LayerNorm": nn.LayerNorm(size, eps=EPS),
            }
        )
        visual = nn.ModuleDict(
            {
                "visn_fc": nn.Linear(backbone.region_feature_size, size),
                "visn_layer_norm": nn.LayerNorm(size, eps=EPS),
                "box_fc": nn.Linear(BOX_SIZE, size),
                "box_layer_norm": nn.LayerNorm(size, eps=EPS),
            }
        )
        self.encoder = nn.ModuleDict(
            {
                "visn_fc": visual,
                "layer": nn.ModuleList(SingleLayer(*shape) for _ in range(depth("layer"))),
                "x_layers": nn.ModuleList(CrossLayer(*shape) for _ in range(depth("x_layers"))),
                "r_layers": nn.ModuleList(SingleLayer(*shape) for _ in range(depth("r_layers"))),
            }
        )
        self.pooler = nn.ModuleDict({"dense": nn.Linear(size, size)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H), pooled (P, H)."""
        text, regions = self.encoded(encoding, encoding.region_features, encoding.boxes, encoding.region_mask)
        pooled = torch.tanh(self.pooler["dense"](text[:, 0]))
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)

    def encoded(
        self, encoding: Encoding, features: Tensor, boxes: Tensor, region_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The states of both streams, (P, T, H) and (P, R, H)."""
        tokens, embed, see = encoding.token_ids, self.embeddings, self.encoder["visn_fc"]
        positions = encoding.position_ids
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        words = embed["word_embeddings"](tokens) + embed["position_embeddings"](positions)
        text = self.dropout(embed["LayerNorm"](words + embed["token_type_embeddings"](torch.zeros_like(tokens))))
        seen = see["visn_layer_norm"](see["visn_fc"](features)) + see["box_layer_norm"](see["box_fc"](boxes))
        regions = self.dropout(seen / 2)
        text_mask, visual_mask = additive_mask(encoding.text_mask), additive_mask(region_mask)
        for layer in self.encoder["layer"]:
            text = layer(text, text_mask)
        for layer in self.encoder["r_layers"]:
            regions = layer(regions, visual_mask)
        for layer in self.encoder["x_layers"]:
            text, regions = layer(text, regions, text_mask, visual_mask)
        return text, regions


class OfTransformers(nn.Module):
    """transformers' network behind the interface of a backbone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H), pooled (P, H)."""
        dtype = self.model.encoder.visn_fc.visn_fc.weight.dtype
        output = self.model(
            input_ids=encoding.token_ids,
            visual_feats=encoding.region_features.to(dtype),
            visual_pos=encoding.boxes.to(dtype),
            attention_mask=encoding.text_mask.to(dtype),
            visual_attention_mask=encoding.region_mask.to(dtype),
        )
        text, regions, pooled = output.language_output, output.vision_output, output.pooled_output
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)


def of_transformers(backbone: Backbone) -> list[Baseline]:
    """A baseline if transformers is installed; our padding and our fused optimiser let the network alone count."""
    try:
        from transformers import LxmertConfig, LxmertModel
    except ImportError:
        return []
    dropout = next(module.p for module in backbone.modules() if isinstance(module, nn.Dropout))
    options: dict[str, Any] = {
        "vocab_size": backbone.wordpiece.size,
        "hidden_size": backbone.hidden_size,
        "num_attention_heads": next(module.num_heads for module in backbone.modules() if hasattr(module, "num_heads")),
        "intermediate_size": len(backbone.state_dict()["encoder.x_layers.0.lang_inter.dense.weight"]),
        "l_layers": len(backbone.encoder.layer),
        "x_layers": len(backbone.encoder.x_layers),
        "r_layers": len(backbone.encoder.r_layers),
        "max_position_embeddings": backbone.max_positions,
        "visual_feat_dim": backbone.region_feature_size,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    model = LxmertModel(LxmertConfig(**options))
    load(model, backbone)
    return [Baseline(TRANSFORMERS, ON_OURS, OfTransformers(model), pads_texts=False, takes_half=True)]

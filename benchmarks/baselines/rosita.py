"""ROSITA as its program computes it, in the layout of our weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from written_out import ABOUT, NAME, LayerNorm, adam, additive_mask, attention, gelu

from vlrun import Backbone, BackboneOutput, Baseline, Encoding

BOX_SIZE = 5
NUM_TOKEN_TYPES = 2


def baselines(backbone: Backbone) -> list[Baseline]:
    """The network of the paper's program with the weights of ``backbone``."""
    network = WrittenOutRosita(backbone)
    network.load_state_dict(backbone.state_dict(), strict=False)
    missing = network.state_dict().keys() - backbone.state_dict().keys()
    assert not missing, f"weights that the backbone does not have: {', '.join(sorted(missing))}"
    return [Baseline(NAME, ABOUT, network, adam)]


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dense_v, self.dense_k = nn.Linear(size, size), nn.Linear(size, size)
        self.dense_q, self.dense_merge = nn.Linear(size, size), nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(P, S, H) -> (P, S, H)."""
        states = self.dense_q(hidden), self.dense_k(hidden), self.dense_v(hidden)
        return self.dense_merge(attention(*states, mask, self.num_heads, self.dropout))


class FeedForward(nn.Module):
    """Two linear layers."""

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
        self.dense0, self.dense1 = nn.Linear(size, inner_size), nn.Linear(inner_size, size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(P, S, H) -> (P, S, H)."""
        return self.dense1(gelu(self.dense0(hidden)))


class Layer(nn.Module):
    """One post-norm layer."""

    def __init__(self, size: int, num_heads: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.mhatt = Attention(size, num_heads, dropout)
        self.ffn = FeedForward(size, inner_size)
        self.layer_norm0, self.layer_norm1 = LayerNorm(size), LayerNorm(size)
        self.dropout0, self.dropout1 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(P, S, H) -> (P, S, H)."""
        hidden = self.layer_norm0(hidden + self.dropout0(self.mhatt(hidden, mask)))
        return self.layer_norm1(hidden + self.dropout1(self.ffn(hidden)))


class WrittenOutRosita(nn.Module):
    """The network, with the sizes and the names of weights of a backbone ``rosita``."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        shapes = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
        size, dropout = backbone.hidden_size, dropout_of(backbone)
        words, positions = shapes["text_embeddings.word_embeddings.weight"][0], backbone.max_positions
        num_heads = next(module.num_heads for module in backbone.modules() if hasattr(module, "num_heads"))
        inner_size = shapes["backbone.layers.0.ffn.dense0.weight"][0]
        num_layers = len({name.split(".")[2] for name in shapes if name.startswith("backbone.layers.")})
        self.text_embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(words, size),
                "position_embeddings": nn.Embedding(positions, size),
                "token_type_embeddings": nn.Embedding(NUM_TOKEN_TYPES, size),
                "layer_norm": LayerNorm(size),
            }
        )
        self.visual_embeddings = nn.ModuleDict(
            {
                "dense_imgfeat": nn.Linear(backbone.region_feature_size, size),
                "dense_bboxfeat": nn.Linear(BOX_SIZE, size),
                "layer_norm": LayerNorm(size),
            }
        )
        layers = nn.ModuleList(Layer(size, num_heads, inner_size, dropout) for _ in range(num_layers))
        self.backbone = nn.ModuleDict({"layers": layers})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(size, size)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H), pooled (P, H)."""
        tokens = encoding.token_ids
        embed, see = self.text_embeddings, self.visual_embeddings
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        words = embed["word_embeddings"](tokens) + embed["position_embeddings"](places)
        text = self.dropout(embed["layer_norm"](words + embed["token_type_embeddings"](torch.zeros_like(tokens))))
        boxes = see["dense_bboxfeat"](encoding.boxes)
        regions = self.dropout(see["layer_norm"](see["dense_imgfeat"](encoding.region_features) + boxes))
        mask = additive_mask(torch.cat([encoding.text_mask, encoding.region_mask], dim=1))
        hidden = torch.cat([text, regions], dim=1)
        for layer in self.backbone["layers"]:
            hidden = layer(hidden, mask)
        pooled = torch.tanh(self.pooler["dense"](hidden[:, 0]))
        text, regions = hidden.split([text.shape[1], regions.shape[1]], dim=1)
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)


def dropout_of(backbone: Backbone) -> float:
    """The dropout that a backbone trains with."""
    return next(module.p for module in backbone.modules() if isinstance(module, nn.Dropout))

"""Heads that tasks of several plugins share, and how layers are initialised."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun.errors import CheckpointError
from vlrun.interfaces.tensors import BackboneOutput, full_precision

BASE_WIDTH, BASE_STD = 768, 0.02  # BERT's, as in both papers
NORM_EPSILON = 1e-12


def initial_std(hidden_size: int) -> float:
    """The standard deviation of initial weights: BERT's 0.02 at its width of 768, more in a narrower network.

    So activations keep their size. With 0.02, a network of width 128 hardly attends to anything: on the demo data it
    stays at chance for thousands of steps.
    """
    return BASE_STD * sqrt(BASE_WIDTH / hidden_size)


def init_layers(module: nn.Module, hidden_size: int) -> None:
    """Initialises every linear layer and embedding table in ``module``: weights ~ N(0, initial_std), biases 0."""
    std = initial_std(hidden_size)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=std)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class PooledClassifier(nn.Module):
    """Classifies pooled outputs: linear, GeLU, layer norm, linear; no dropout.

    The middle is twice as wide as the hidden states. ROSITA (``mm_qa_head``) and LXMERT (``logit_fc``) have this head
    for answers; LXMERT also has it for statements about two images.
    """

    reads_pooled_alone = True

    def __init__(self, hidden_size: int, num_classes: int, images_per_example: int = 1) -> None:
        """Builds the layers, initialised by ``init_layers``.

        Args:
            images_per_example: how many neighbouring pairs make an example; their pooled outputs are concatenated.
        """
        super().__init__()
        self.images_per_example = images_per_example
        self.dense0 = nn.Linear(hidden_size * images_per_example, 2 * hidden_size)
        self.layer_norm = nn.LayerNorm(2 * hidden_size, eps=NORM_EPSILON)
        self.dense1 = nn.Linear(2 * hidden_size, num_classes)
        init_layers(self, hidden_size)

    def forward(self, output: BackboneOutput) -> Tensor:
        """Pooled outputs (B * images_per_example, H) -> logits (B, num_classes)."""
        pooled = output.pooled.reshape(-1, self.images_per_example * output.pooled.shape[1])
        logits: Tensor = self.dense1(self.layer_norm(nn.functional.gelu(self.dense0(pooled))))
        return logits


class TwoTowerHead(nn.Module):
    """Pooled output and matching head of two towers: the logit of a match is ``scale`` x cosine + ``bias``.

    CLIP (Radford et al. 2021) has no bias: a softmax over many images or texts needs none. It lets pairs alone match or
    not, and starts at 0.
    """

    def __init__(self, log_scale: float = 2.6592) -> None:
        """Builds the head.

        Args:
            log_scale: where the logarithm of the scale starts; by default ln(1 / 0.07), as in the paper.
        """
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(log_scale))
        self.bias = nn.Parameter(torch.zeros(()))

    @staticmethod
    def vectors(projected: Tensor) -> Tensor:
        """Outputs of a tower, (N, H), in full precision and of length 1."""
        return F.normalize(full_precision(projected), dim=-1)

    @staticmethod
    def pooled(text: Tensor, images: Tensor) -> Tensor:
        """Pooled outputs of P pairs from their vectors, (P, H) each: the product, whose mean is the cosine."""
        return text.shape[-1] * text * images

    def similarity(self, text: Tensor, images: Tensor) -> Tensor:
        """Vectors of N texts and of M images -> logits of a match, (M, N)."""
        return self.logit_scale.exp() * (images @ text.T) + self.bias

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled outputs (P, H) -> logits (P, 2), the first of them 0."""
        match = self.logit_scale.exp() * pooled.mean(-1) + self.bias
        return torch.stack([torch.zeros_like(match), match], dim=-1)


def num_classes(tensors: Mapping[str, Tensor]) -> int:
    """How many classes the tensors of a ``PooledClassifier`` have.

    Raises:
        CheckpointError: the last layer is missing, or its weight and bias have different numbers of rows.
    """
    weight, bias = tensors.get("dense1.weight"), tensors.get("dense1.bias")
    if weight is None or bias is None or weight.ndim != 2:
        raise CheckpointError("the answer head is not whole: its last layer (dense1.weight and dense1.bias) is missing")
    if len(weight) != len(bias):
        raise CheckpointError(
            f"the answer head's last layer has {len(weight):,} rows of weights and {len(bias):,} biases"
        )
    return len(weight)

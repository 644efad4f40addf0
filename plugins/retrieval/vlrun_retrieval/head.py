"""The head of tasks that match images and texts."""

from __future__ import annotations

from torch import Tensor, nn

from vlrun import BackboneOutput


class PairMatcher(nn.Module):
    """A backbone's image-text matching head on the pooled output: logits (P, 2), class 1 is a match."""

    reads_pooled_alone = True

    def __init__(self, matching_head: nn.Module) -> None:
        super().__init__()
        self.layer = matching_head

    def forward(self, output: BackboneOutput) -> Tensor:
        """Hidden states of P pairs -> logits (P, 2)."""
        return self.logits(output.pooled)

    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled outputs (P, H) -> logits (P, 2)."""
        logits: Tensor = self.layer(pooled)
        return logits

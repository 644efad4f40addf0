"""The options of the backbone ``rosita`` (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from vlrun import SingleStreamConfig


class RositaConfig(SingleStreamConfig):
    """A single-stream encoder over [text tokens ; image regions]; base is the size of the paper."""

    weights_file: ClassVar[str] = "rosita-base.pkl"
    weights_page: ClassVar[str] = "https://github.com/MILVLG/rosita"
    word_table: ClassVar[str] = "text_embeddings.word_embeddings.weight"
    shown_by: ClassVar[Mapping[str, tuple[str, int]]] = {
        "feed_forward_size": ("backbone.layers.0.ffn.dense0.weight", 0),
        "max_positions": ("text_embeddings.position_embeddings.weight", 0),
        "region_feature_size": ("visual_embeddings.dense_imgfeat.weight", 1),
    }
    stacks: ClassVar[Mapping[str, str]] = {"num_layers": "backbone.layers"}

    def weights_remedy(self) -> list[str]:
        """Also the start of the authors' pre-training."""
        command = f"runner weights import --from bert-rosita hf:google-bert/bert-base-uncased {self.weights}"
        start = "or start from BERT, as pre-training does (their bert-base.pkl, or with pip install 'vlrun[hub]')"
        return [*super().weights_remedy(), f"{start}: {command}"]

"""LXMERT-S as its program computes it, with the whole table of which it looks up one row."""

from __future__ import annotations

import torch
from lxmert import WrittenOutLxmert
from torch import Tensor, nn
from written_out import ABOUT, NAME, BertAdam

from vlrun import Backbone, BackboneOutput, Baseline, Encoding

WHOLE_TABLE = "and the whole table is trained of which the visual [CLS] is one row"


def baselines(backbone: Backbone) -> list[Baseline]:
    """The network of the paper's program with the weights of ``backbone``."""
    network = WrittenOutLxmertS(backbone)
    own, given = network.state_dict(), dict(backbone.state_dict())
    table, row = own["word_embeddings.weight"], given["word_embeddings.weight"][0]
    table[backbone.wordpiece.cls_id] = row.detach()
    given["word_embeddings.weight"] = table
    network.load_state_dict({name: given[name] for name in own})
    return [Baseline(NAME, f"{ABOUT}; {WHOLE_TABLE}", network, BertAdam)]


class WrittenOutLxmertS(WrittenOutLxmert):
    """The network, with the sizes and the names of weights of a backbone ``lxmert-s``."""

    cls_box: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.pooler_f = nn.ModuleDict({"dense": nn.Linear(backbone.hidden_size, backbone.hidden_size)})
        self.word_embeddings = nn.Embedding(backbone.wordpiece.size, backbone.region_feature_size)
        self.register_buffer("cls_box", torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), persistent=False)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """Encodes P pairs: text (P, T, H), regions (P, R, H) without the visual [CLS], pooled (P, H)."""
        count = len(encoding.token_ids)
        features = torch.cat([self.word_embeddings(encoding.token_ids[:, :1]), encoding.region_features], dim=1)
        boxes = torch.cat([self.cls_box.expand(count, 1, -1), encoding.boxes], dim=1)
        mask = nn.functional.pad(encoding.region_mask, (1, 0), value=True)
        text, visual = self.encoded(encoding, features, boxes, mask)
        pooled = torch.tanh(self.pooler["dense"](text[:, 0])) * torch.tanh(self.pooler_f["dense"](visual[:, 0]))
        return BackboneOutput(text, visual[:, 1:], pooled, encoding.text_mask, encoding.region_mask)

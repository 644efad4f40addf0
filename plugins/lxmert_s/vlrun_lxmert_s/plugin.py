"""What this plugin offers: the backbones ``lxmert-s`` and ``lxmert``, and the readers of weights for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlrun import Entry, WeightFormat, hookimpl
from vlrun_lxmert_s.config import LxmertConfig, LxmertSConfig

if TYPE_CHECKING:
    from vlrun_lxmert_s.model import Lxmert, LxmertS


def build_lxmert_s(config: LxmertSConfig) -> LxmertS:
    from vlrun_lxmert_s.model import LxmertS

    return LxmertS.from_config(config)


def build_lxmert(config: LxmertConfig) -> Lxmert:
    from vlrun_lxmert_s.model import Lxmert

    return Lxmert.from_config(config)


def translate_lxmert_s(content: dict[str, Any]) -> dict[str, Any]:
    from vlrun_lxmert_s.checkpoint import translate_lxmert_s

    return translate_lxmert_s(content)


def translate_lxmert(content: dict[str, Any]) -> dict[str, Any]:
    from vlrun_lxmert_s.checkpoint import translate_lxmert

    return translate_lxmert(content)


def translate_hf_lxmert(content: dict[str, Any]) -> dict[str, Any]:
    from vlrun_lxmert_s.checkpoint import translate_hf_lxmert

    return translate_hf_lxmert(content)


def translate_bert_for_lxmert_s(content: dict[str, Any]) -> dict[str, Any]:
    from vlrun_lxmert_s.checkpoint import translate_bert

    return translate_bert(content)


def translate_bert_for_lxmert(content: dict[str, Any]) -> dict[str, Any]:
    from vlrun_lxmert_s.checkpoint import BERT_LANGUAGE_LAYERS, translate_bert

    return translate_bert(content, num_layers=BERT_LANGUAGE_LAYERS)


@hookimpl
def vlrun_backbones() -> list[Entry[Any]]:
    return [
        Entry("lxmert-s", "two-stream transformer of 5 layers (Liu et al. 2021)", LxmertSConfig, build_lxmert_s),
        Entry("lxmert", "two-stream transformer (Tan and Bansal 2019)", LxmertConfig, build_lxmert),
    ]


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    return [
        WeightFormat("lxmert-s", "lxmert-s", "the authors' files, pre-trained or fine-tuned", translate_lxmert_s),
        WeightFormat("lxmert", "lxmert", "the authors' files, pre-trained or fine-tuned", translate_lxmert),
        WeightFormat("hf-lxmert", "lxmert", "LXMERT of Hugging Face transformers, any class", translate_hf_lxmert),
        WeightFormat(
            "bert-lxmert-s", "lxmert-s", "bert-base-uncased: embeddings and pooler", translate_bert_for_lxmert_s, True
        ),
        WeightFormat(
            "bert-lxmert",
            "lxmert",
            "bert-base-uncased: embeddings, pooler, the first 9 layers",
            translate_bert_for_lxmert,
            partial=True,
        ),
    ]

"""What this plugin offers: the backbones ``lxmert-s`` and ``lxmert``, and the readers of weights for them."""

from __future__ import annotations

from vlrun import Entry, WeightFormat, hookimpl


@hookimpl
def vlrun_backbones() -> list[Entry]:
    """Both networks."""
    return [
        Entry(
            name="lxmert-s",
            summary="two-stream transformer of 5 layers (Liu et al. 2021)",
            config="vlrun_lxmert_s.config:LxmertSConfig",
            factory="vlrun_lxmert_s.model:LxmertS.from_config",
        ),
        Entry(
            name="lxmert",
            summary="two-stream transformer (Tan and Bansal 2019)",
            config="vlrun_lxmert_s.config:LxmertConfig",
            factory="vlrun_lxmert_s.model:Lxmert.from_config",
        ),
    ]


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    """The authors' files, Hugging Face's and BERT's."""
    return [
        WeightFormat(
            name="lxmert-s",
            backbone="lxmert-s",
            summary="the authors' files, pre-trained or fine-tuned",
            translator="vlrun_lxmert_s.checkpoint:translate_lxmert_s",
        ),
        WeightFormat(
            name="lxmert",
            backbone="lxmert",
            summary="the authors' files, pre-trained or fine-tuned",
            translator="vlrun_lxmert_s.checkpoint:translate_lxmert",
        ),
        WeightFormat(
            name="hf-lxmert",
            backbone="lxmert",
            summary="LXMERT of Hugging Face transformers, any class",
            translator="vlrun_lxmert_s.checkpoint:translate_hf_lxmert",
        ),
        WeightFormat(
            name="bert-lxmert-s",
            backbone="lxmert-s",
            summary="bert-base-uncased: embeddings and pooler",
            translator="vlrun_lxmert_s.checkpoint:translate_bert",
            partial=True,
        ),
        WeightFormat(
            name="bert-lxmert",
            backbone="lxmert",
            summary="bert-base-uncased: embeddings, pooler, the first 9 layers",
            translator="vlrun_lxmert_s.checkpoint:translate_bert_for_lxmert",
            partial=True,
        ),
    ]

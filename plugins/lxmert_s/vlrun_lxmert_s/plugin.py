"""What this plugin offers: the backbones ``lxmert-s`` and ``lxmert``, and the readers of weights for them."""

from __future__ import annotations

from vlrun import Download, Entry, WeightFormat, hookimpl
from vlrun_lxmert_s.downloads import DOWNLOADS, FEATURES


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


# run/lxmert_pretrain.bash of the authors: --train mscoco_train,mscoco_nominival,vgnococo --valid mscoco_minival.
# minival is 5,000 images of val2014, listed by LXMERT's VQA split of that name; vgnococo is Visual Genome without COCO
SEEN_BY_LXMERT = ("COCO_train2014_*", "COCO_val2014_* except vqav2/minival", "visual-genome:* except COCO_*")

# LXMERT-S was trained on 11.76 % of LXMERT's pairs (Liu et al. 2021); on which ones is not published
SEEN_BY_LXMERT_S = tuple(f"possibly {images}" for images in SEEN_BY_LXMERT)

# neither page of the authors says under which terms their files are
LICENCE_OF_LXMERT = "not stated by the authors (https://github.com/airsplay/lxmert)"
LICENCE_OF_LXMERT_S = "not stated by the authors (https://github.com/lttsmn/LXMERT-S)"
LICENCE_OF_BERT = "Apache-2.0 (https://huggingface.co/google-bert/bert-base-uncased)"
HEADS = {"nlvr2_head": {}}
ANSWER_LISTS = {
    9500: "all_ans.json of pre-training",
    3129: "trainval_label2ans.json of the authors' data/vqa",
    1842: "trainval_label2ans.json of the authors' data/gqa",
}


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    """The authors' files, Hugging Face's and BERT's."""
    return [
        WeightFormat(
            name="lxmert-s",
            backbone="lxmert-s",
            summary="the authors' files, pre-trained or fine-tuned",
            translator="vlrun_lxmert_s.checkpoint:translate_lxmert_s",
            exporter="vlrun_lxmert_s.checkpoint:export_lxmert_s",
            head_meanings=HEADS | {"region_head": {"times_pooled": True}},
            seen=SEEN_BY_LXMERT_S,
            licence=LICENCE_OF_LXMERT_S,
            features=FEATURES,
            answer_lists=ANSWER_LISTS,
        ),
        WeightFormat(
            name="lxmert",
            backbone="lxmert",
            summary="the authors' files, pre-trained or fine-tuned",
            translator="vlrun_lxmert_s.checkpoint:translate_lxmert",
            exporter="vlrun_lxmert_s.checkpoint:export_lxmert",
            head_meanings=HEADS,
            seen=SEEN_BY_LXMERT,
            licence=LICENCE_OF_LXMERT,
            features=FEATURES,
            answer_lists=ANSWER_LISTS,
        ),
        WeightFormat(
            name="hf-lxmert",
            backbone="lxmert",
            summary="LXMERT of Hugging Face transformers, any class",
            translator="vlrun_lxmert_s.checkpoint:translate_hf_lxmert",
            exporter="vlrun_lxmert_s.hugging_face:export_hf_lxmert",
            head_meanings=HEADS,
            seen=SEEN_BY_LXMERT,
            licence=LICENCE_OF_LXMERT,
            features=FEATURES,
            answer_lists=ANSWER_LISTS,
        ),
        WeightFormat(
            name="bert-lxmert-s",
            backbone="lxmert-s",
            summary="bert-base-uncased as a start: embeddings, pooler, word head",
            translator="vlrun_lxmert_s.checkpoint:translate_bert",
            partial=True,
            random=("encoder.visn_fc", "encoder.x_layers", "pooler_f", "word_embeddings"),
            licence=LICENCE_OF_BERT,
        ),
        WeightFormat(
            name="bert-lxmert",
            backbone="lxmert",
            summary="bert-base-uncased as a start: embeddings, pooler, word head, the first 9 layers",
            translator="vlrun_lxmert_s.checkpoint:translate_bert_for_lxmert",
            partial=True,
            random=("encoder.visn_fc", "encoder.x_layers", "encoder.r_layers"),
            licence=LICENCE_OF_BERT,
        ),
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published files."""
    return list(DOWNLOADS)

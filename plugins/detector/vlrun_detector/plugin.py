"""What this plugin registers: two detectors over one network, and the layouts of its public weights."""

from __future__ import annotations

from vlrun import Download, Entry, WeightFormat, hookimpl
from vlrun_detector.downloads import DOWNLOADS

# what the module of the weights calls them; that one imports torch
_OWNER = "bottom-up"


@hookimpl
def vlrun_detectors() -> list[Entry]:
    return [
        Entry(
            name="bottom-up",
            summary="Bottom-up attention as the Caffe original computes it; what ROSITA and LXMERT were trained on",
            config="vlrun_detector.config:BottomUpConfig",
            factory="vlrun_detector.detector:BottomUp.caffe",
        ),
        Entry(
            name="bottom-up-hf",
            summary="Bottom-up attention as Hugging Face's port computes it; other features than the backbones saw",
            config="vlrun_detector.config:BottomUpConfig",
            factory="vlrun_detector.detector:BottomUp.hf",
        ),
    ]


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    return [
        WeightFormat(
            name="bottom-up-caffe",
            backbone=_OWNER,
            summary="bottom-up-attention.pytorch's .pth, converted from Caffe (bua-caffe-frcn-r101-k36.pth)",
            translator="vlrun_detector.weights:translate_caffe",
            complete=True,
        ),
        WeightFormat(
            name="bottom-up-hf",
            backbone=_OWNER,
            summary="pytorch_model.bin of Hugging Face's unc-nlp/frcnn-vg-finetuned",
            translator="vlrun_detector.weights:translate_hf",
            complete=True,
        ),
        WeightFormat(
            name="bottom-up-pkl",
            backbone=_OWNER,
            summary="a .pkl of airsplay's py-bottom-up-attention (faster_rcnn_from_caffe_attr.pkl)",
            translator="vlrun_detector.weights:translate_hf",
            reader="vlrun_detector.weights:read_pickled",
            complete=True,
        ),
        WeightFormat(
            name="bottom-up-caffemodel",
            backbone=_OWNER,
            summary="the original resnet101_faster_rcnn_final*.caffemodel",
            translator="vlrun_detector.caffemodel:translate_caffemodel",
            reader="vlrun_detector.caffemodel:read_caffemodel",
            complete=True,
        ),
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published weights."""
    return list(DOWNLOADS)

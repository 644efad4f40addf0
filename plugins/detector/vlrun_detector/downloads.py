"""The published weights of the detector (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile

DOWNLOADS = (
    Download(
        name="bottom-up-k36",
        summary="bottom-up attention for 36 boxes, converted from Caffe; what ROSITA and LXMERT were trained on",
        kind="weights",
        makes="bottom-up-k36.safetensors",
        source="bottom-up-caffe",
        recognised=("bua-caffe-frcn-r101-k36.pth", "bua-caffe-frcn-r101_with_attributes_fix36.pth"),
        page="https://github.com/MILVLG/bottom-up-attention.pytorch",
        licence="no licence of its own; the repository's is Apache-2.0",
        manual_steps=("download R101-k36 from the README's link, a file share that only a browser can download from",),
    ),
    Download(
        name="bottom-up-k10-100",
        summary="bottom-up attention for 10 to 100 boxes, converted from Caffe",
        kind="weights",
        makes="bottom-up-k10-100.safetensors",
        source="bottom-up-caffe",
        recognised=("bua-caffe-frcn-r101-k10-100.pth", "bua-caffe-frcn-r101_with_attributes.pth"),
        page="https://github.com/MILVLG/bottom-up-attention.pytorch",
        licence="no licence of its own; the repository's is Apache-2.0",
        manual_steps=(
            "download R101-k10-100 from the README's link, a file share that only a browser can download from",
        ),
    ),
    Download(
        name="bottom-up-hf",
        summary="bottom-up attention in Hugging Face's layout; other features than the backbones saw",
        kind="weights",
        makes="bottom-up-hf.safetensors",
        source="bottom-up-hf",
        recognised=("frcnn-vg-finetuned/pytorch_model.bin",),
        files=(
            RemoteFile(
                name="pytorch_model.bin",
                urls=("https://huggingface.co/unc-nlp/frcnn-vg-finetuned/resolve/main/pytorch_model.bin",),
                size=262_398_754,
                sha256="d3bf8ad74828a244a95d85e17a842cc0ac75419a53e4e81ee68386f192bb24c5",
            ),
        ),
        page="https://huggingface.co/unc-nlp/frcnn-vg-finetuned",
    ),
)

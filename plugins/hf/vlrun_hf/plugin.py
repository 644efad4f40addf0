"""What this plugin offers: networks of transformers, and the readers of weights for them."""

from __future__ import annotations

from vlrun import Download, Entry, FeatureOrigin, RemoteFile, WeightFormat, hookimpl


@hookimpl
def vlrun_backbones() -> list[Entry]:
    """The networks."""
    return [
        Entry(
            name="vilt",
            summary="text and patches of the picture in one transformer (Kim et al. 2021)",
            config="vlrun_hf.config:ViltConfig",
            factory="vlrun_hf.vilt:Vilt.from_config",
        ),
        Entry(
            name="clip",
            summary="two towers, for texts and pictures, whose vectors are compared (Radford et al. 2021)",
            config="vlrun_hf.config:ClipConfig",
            factory="vlrun_hf.clip:Clip.from_config",
        ),
        Entry(
            name="visualbert",
            summary="BERT over text and regions (Li et al. 2019)",
            config="vlrun_hf.config:VisualBertConfig",
            factory="vlrun_hf.visualbert:VisualBert.from_config",
        ),
        Entry(
            name="oscar",
            summary="BERT over text, object tags and regions (Li et al. 2020; VinVL, Zhang et al. 2021)",
            config="vlrun_hf.config:OscarConfig",
            factory="vlrun_hf.oscar:Oscar.from_config",
        ),
        Entry(
            name="transformers-lxmert",
            summary="LXMERT as transformers has it, a stream for text and one for regions",
            config="vlrun_hf.config:TransformersLxmertConfig",
            factory="vlrun_hf.lxmert:TransformersLxmert.from_config",
        ),
    ]


# pre-trained on COCO (train and restval of Karpathy's split), Visual Genome, SBU and GCC (Kim et al. 2021, table 1)
SEEN_BY_VILT = (
    "possibly COCO_train2014_*",
    "possibly COCO_val2014_*",
    "possibly visual-genome:*",
    "possibly sbu:*",
    "possibly conceptual-captions:*",
)

# COCO's captions (Li et al. 2019); which images of it, and whether for all files, is not said
SEEN_BY_VISUALBERT = ("possibly COCO_train2014_*", "possibly COCO_val2014_*")

# COCO, Conceptual Captions, SBU, Flickr30k and GQA (Li et al. 2020), VinVL also VQA, Visual Genome QA and OpenImages
SEEN_BY_OSCAR = (
    *("possibly COCO_train2014_*", "possibly COCO_val2014_*", "possibly visual-genome:*", "possibly flickr:*"),
    *("possibly conceptual-captions:*", "possibly sbu:*"),
)

# run/lxmert_pretrain.bash of the authors: --train mscoco_train,mscoco_nominival,vgnococo --valid mscoco_minival
SEEN_BY_LXMERT = ("COCO_train2014_*", "COCO_val2014_* except vqav2/minival", "visual-genome:* except COCO_*")


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    """Folders and repositories of transformers."""
    return [
        WeightFormat(
            name="vilt",
            backbone="vilt",
            summary="ViLT of Hugging Face transformers, any class",
            translator="vlrun_hf.checkpoint:translate_vilt",
            seen=SEEN_BY_VILT,
            licence="Apache-2.0 (https://huggingface.co/dandelin/vilt-b32-mlm)",
        ),
        WeightFormat(
            name="clip",
            backbone="clip",
            summary="CLIPModel of Hugging Face transformers",
            translator="vlrun_hf.checkpoint:translate_clip",
            licence="MIT (https://github.com/openai/CLIP)",
        ),
        WeightFormat(
            name="visualbert",
            backbone="visualbert",
            summary="VisualBERT of Hugging Face transformers, any class",
            translator="vlrun_hf.checkpoint:translate_visualbert",
            seen=SEEN_BY_VISUALBERT,
        ),
        WeightFormat(
            name="oscar",
            backbone="oscar",
            summary="the authors' files of Oscar and VinVL",
            translator="vlrun_hf.checkpoint:translate_oscar",
            seen=SEEN_BY_OSCAR,
        ),
        WeightFormat(
            name="transformers-lxmert",
            backbone="transformers-lxmert",
            summary="LXMERT of Hugging Face transformers, any class",
            translator="vlrun_hf.checkpoint:translate_lxmert",
            seen=SEEN_BY_LXMERT,
            features=FeatureOrigin("bua-caffe", boxes="36"),
        ),
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """Published weights, and CLIP's words."""
    return [
        Download(
            name="clip-vit-b32-tokenizer",
            summary="the byte-pair vocabulary of CLIP ViT-B/32",
            kind="vocabulary",
            makes="tokenizer.json",
            recognised=("clip-vit-base-patch32/tokenizer.json",),
            files=(
                RemoteFile(
                    name="tokenizer.json",
                    urls=("https://huggingface.co/openai/clip-vit-base-patch32/resolve/main/tokenizer.json",),
                ),
            ),
            page="https://huggingface.co/openai/clip-vit-base-patch32",
            licence="MIT (https://github.com/openai/CLIP)",
        ),
        Download(
            name="vilt-b32",
            summary="ViLT-B/32, pre-trained",
            kind="weights",
            makes="vilt-b32.safetensors",
            source="vilt",
            recognised=("vilt-b32-mlm/pytorch_model.bin",),
            page="https://huggingface.co/dandelin/vilt-b32-mlm",
            licence="Apache-2.0",
            manual_steps=("runner weights import --from vilt hf:dandelin/vilt-b32-mlm weights/vilt-b32.safetensors",),
        ),
        Download(
            name="clip-vit-l14-336",
            summary="CLIP ViT-L/14 for pictures of 336 pixels, pre-trained",
            kind="weights",
            makes="clip-vit-l14-336.safetensors",
            source="clip",
            recognised=("clip-vit-large-patch14-336/pytorch_model.bin",),
            page="https://huggingface.co/openai/clip-vit-large-patch14-336",
            licence="MIT (https://github.com/openai/CLIP)",
            manual_steps=(
                "runner weights import --from clip hf:openai/clip-vit-large-patch14-336 "
                "weights/clip-vit-l14-336.safetensors",
            ),
        ),
        Download(
            name="clip-vit-b32",
            summary="CLIP ViT-B/32, pre-trained",
            kind="weights",
            makes="clip-vit-b32.safetensors",
            source="clip",
            recognised=("clip-vit-base-patch32/pytorch_model.bin",),
            page="https://huggingface.co/openai/clip-vit-base-patch32",
            licence="MIT (https://github.com/openai/CLIP)",
            manual_steps=(
                "runner weights import --from clip hf:openai/clip-vit-base-patch32 weights/clip-vit-b32.safetensors",
            ),
        ),
    ]

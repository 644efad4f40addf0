"""What the authors of LXMERT and LXMERT-S publish: region features and weights (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, FeatureOrigin, RemoteFile

_SERVERS = ("https://nlp.cs.unc.edu/data", "https://nlp1.cs.unc.edu/data")
_LXMERT = "https://github.com/airsplay/lxmert"
_LXMERT_S = "https://github.com/lttsmn/LXMERT-S"

# bottom-up attention in Caffe, its alternative model with MIN_BOXES = MAX_BOXES = 36; the files are called *_obj36.tsv
FEATURES = FeatureOrigin("bua-caffe", boxes="36")


def _features(
    store: str,
    summary: str,
    folder: str,
    names: tuple[str, ...],
    optional: tuple[str, ...] = (),
    images: int | None = None,
) -> Download:
    """Archives of TSV files on LXMERT's servers."""
    return Download(
        name=store,
        summary=f"{summary}, 36 boxes per image, as LXMERT publishes them",
        kind="features",
        makes=store,
        source="lxmert-tsv",
        recognised=tuple(f"{name}.tsv" for name in (*names, *optional)),
        optional=tuple(f"{name}.tsv" for name in optional),
        files=tuple(
            RemoteFile(
                name=f"{name.rpartition('/')[2]}.zip",
                urls=tuple(f"{server}/lxmert_data/{folder}/{name.rpartition('/')[2]}.zip" for server in _SERVERS),
            )
            for name in names
        ),
        page=_LXMERT,
        images=images,
        features=FEATURES,
    )


DOWNLOADS = (
    _features(
        "coco-obj36",
        "COCO train2014 and val2014",
        "mscoco_imgfeat",
        ("train2014_obj36", "val2014_obj36"),
        ("test2015_obj36",),
        images=123_287,
    ),
    _features("gqa-obj36", "images of GQA", "vg_gqa_imgfeat", ("vg_gqa_obj36", "gqa_testdev_obj36")),
    _features(
        "nlvr2-obj36",
        "images of NLVR2",
        "nlvr2_imgfeat",
        ("nlvr2_imgfeat/train_obj36", "nlvr2_imgfeat/valid_obj36", "nlvr2_imgfeat/test_obj36"),
    ),
    Download(
        name="flickr30k-obj36",
        summary="images of Flickr30k, 36 boxes each, as LXMERT-S extracted them",
        kind="features",
        makes="flickr30k-obj36",
        source="lxmert-tsv",
        recognised=("flickr30k_train2014.tsv", "flickr30k_test2014.tsv"),
        page=_LXMERT_S,
        manual_steps=("download the Flickr30k features that the README names",),
    ),
    Download(
        name="lxmert",
        summary="LXMERT's pre-trained weights",
        kind="weights",
        makes="lxmert.safetensors",
        source="lxmert",
        recognised=("model_LXRT.pth",),
        files=(RemoteFile(name="model_LXRT.pth", urls=tuple(f"{server}/model_LXRT.pth" for server in _SERVERS)),),
        page=_LXMERT,
        licence="the repository's is MIT",
    ),
    Download(
        name="lxmert-s",
        summary="LXMERT-S's pre-trained weights",
        kind="weights",
        makes="lxmert-s.safetensors",
        source="lxmert-s",
        recognised=("mode_LXRT.bin",),
        page=_LXMERT_S,
        manual_steps=("download mode_LXRT.bin from the link in the README",),
    ),
)

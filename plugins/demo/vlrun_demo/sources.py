"""What the demo world has for which dataset: its images, the writer of its official files, and how it is learnt."""

from __future__ import annotations

from vlrun import DemoSource

PROVIDER = "world"

SOURCES = (
    *(
        DemoSource(
            name=name,
            provider=PROVIDER,
            image_set="coco",
            builder="official",
            writer="vlrun_demo.official_refcoco:write_refcoco",
            arguments=(name,),
            epochs=epochs,
        )
        for name, epochs in {"refcoco": 12, "refcoco+": 8, "refcocog": 12}.items()
    ),
    DemoSource(
        name="vqav2",
        provider=PROVIDER,
        image_set="vqa",
        builder="official",
        writer="vlrun_demo.official_vqa:write_vqa",
        epochs=11,
    ),
    DemoSource(
        name="gqa",
        provider=PROVIDER,
        image_set="gqa",
        builder="official",
        writer="vlrun_demo.official_gqa:write_gqa",
        epochs=10,
    ),
    DemoSource(
        name="nlvr2",
        provider=PROVIDER,
        image_set="nlvr2",
        builder="official",
        writer="vlrun_demo.official_nlvr2:write_statements",
        epochs=15,
        learning_rate=4e-4,  # at more, some networks never learn to tell two images apart
    ),
    DemoSource(
        name="coco-retrieval",
        provider=PROVIDER,
        image_set="retrieval",
        builder="karpathy",
        writer="vlrun_demo.official_captions:write_karpathy",
        arguments=("coco",),
        epochs=5,
    ),
    DemoSource(
        name="flickr30k",
        provider=PROVIDER,
        image_set="flickr",
        builder="karpathy",
        writer="vlrun_demo.official_captions:write_karpathy",
        arguments=("flickr30k",),
        epochs=5,
    ),
    DemoSource(
        name="coco-captions",
        provider=PROVIDER,
        image_set="pretraining",
        builder="official",
        writer="vlrun_demo.official_captions:write_coco_captions",
        epochs=12,
        learning_rate=1e-3,  # at less, matching has hardly begun when the minutes are over
    ),
    DemoSource(
        name="lxmert-pretraining",
        provider=PROVIDER,
        image_set="pretraining",
        builder="lxmert",
        writer="vlrun_demo.official_lxmert:write_lxmert_pretraining",
        epochs=8,
        learning_rate=1e-3,
    ),
    DemoSource(
        name="rosita-pretraining",
        provider=PROVIDER,
        image_set="pretraining",
        builder="rosita",
        writer="vlrun_demo.official_rosita:write_rosita_pretraining",
        epochs=4,
        learning_rate=1e-3,
    ),
)

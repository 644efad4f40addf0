"""What the core itself offers, through the same hooks as any plugin."""

from __future__ import annotations

from vlrun.plugins.downloads import Download, RemoteFile
from vlrun.plugins.entries import Command, Entry, FeatureFormat
from vlrun.plugins.hookspecs import hookimpl

_REPORTERS = (
    ("console", "live panel on a terminal, plain lines elsewhere", "ConsoleConfig", "console:ConsoleReporter"),
    ("log", "log.txt, lines with the time", "LogConfig", "log:LogReporter"),
    ("jsonl", "metrics.jsonl, every step and score for programs", "JsonLinesConfig", "jsonl:JsonLinesReporter"),
    ("tensorboard", "tensorboard/, curves", "TensorBoardConfig", "tensorboard:TensorBoardReporter"),
    ("html", "report.html, one page with results, curves and recipe", "HtmlConfig", "html:HtmlReporter"),
)
_OPTIMIZERS = (
    ("adam", "Adam (Kingma and Ba 2015)", "AdamConfig", "adam"),
    ("adamw", "AdamW (Loshchilov and Hutter 2019)", "AdamWConfig", "adamw"),
    ("bert-adam", "AdamW without bias correction, as BERT was trained", "BertAdamConfig", "bert_adam"),
    ("lamb", "LAMB (You et al. 2020), for very large batches (extra: optimizers)", "LambConfig", "lamb"),
    ("sgd", "stochastic gradient descent with momentum", "SgdConfig", "sgd"),
)
_SCHEDULES = (
    ("constant", "the same rate in every step", "ConstantConfig", "constant"),
    ("cosine", "up in a straight line, down along a cosine wave", "CosineConfig", "cosine"),
    ("one-cycle", "up and down in cosine waves (Smith and Topin 2019)", "OneCycleConfig", "one_cycle"),
    ("polynomial", "up in a straight line, down as the remaining time to a power", "PolynomialConfig", "polynomial"),
    ("warmup-linear", "up in a straight line, down to zero in another one", "WarmupLinearConfig", "warmup_linear"),
    ("warmup-staircase", "ROSITA's: up in stairs, then drops", "WarmupStaircaseConfig", "warmup_staircase"),
)
_VERBS = {
    "run": "train, evaluate and report an experiment",
    "evaluate": "evaluate a run's checkpoint",
    "predict": "write a run's predictions for a split",
    "ask": "ask a run's model about an image",
    "score": "score a file of predictions",
    "submit-check": "check a file before an evaluation server refuses it",
    "validate": "check an experiment file without touching features or torch",
    "list-plugins": "show installed plugins, what they offer, and what is wrong with them",
    "list": "list experiments, detectors, and the backbones, tasks, datasets, metrics and reporters to name",
    "data": "get, build and check what experiments need",
    "features": "extract, build, inspect, verify and compare region features",
    "weights": "import, export and inspect model weights",
    "report": "show the results of runs",
    "compare": "show the difference of two runs on the same examples, and how sure it is",
    "bench": "measure how fast an experiment is on this machine, part by part",
    "doctor": "check machine, packages and plugins, and what an experiment needs of them",
    "new-plugin": "start a plugin of your own",
    "completion": "print the code that makes a shell complete verbs, files, names and options",
}
_MODULES = {"list": "list_components"}  # a module called `list` would hide the built-in type in its package


@hookimpl
def vlrun_reporters() -> list[Entry]:
    """The reporters that are on unless an experiment lists others."""
    return [
        Entry(
            name=name,
            summary=summary,
            config=f"vlrun.config.reporters:{config}",
            factory=f"vlrun.reporting.{reporter}.from_config",
        )
        for name, summary, config, reporter in _REPORTERS
    ]


@hookimpl
def vlrun_optimizers() -> list[Entry]:
    """The optimisers of both papers and the usual ones."""
    return [
        Entry(
            name=name,
            summary=summary,
            config=f"vlrun.config.optimisation:{config}",
            factory=f"vlrun.engine.optimisers:{factory}",
        )
        for name, summary, config, factory in _OPTIMIZERS
    ]


@hookimpl
def vlrun_schedules() -> list[Entry]:
    """The schedules of both papers and the usual ones."""
    return [
        Entry(
            name=name,
            summary=summary,
            config=f"vlrun.config.optimisation:{config}",
            factory=f"vlrun.engine.schedules:{factory}",
        )
        for name, summary, config, factory in _SCHEDULES
    ]


@hookimpl
def vlrun_feature_formats() -> list[FeatureFormat]:
    """The layouts in which the authors publish region features."""
    return [
        FeatureFormat(
            name="npz",
            summary="folder of .npz files, one per image, as bottom-up-attention.pytorch and ROSITA write them",
            opener="vlrun.features.formats.npz:NpzFolder",
            recogniser="vlrun.features.formats.npz:is_npz",
        ),
        FeatureFormat(
            name="rosita-tsv",
            summary="folder with imgfeat.tsv, imgfeat.lineidx and img_feat_offset_map.json",
            opener="vlrun.features.formats.rosita_tsv:RositaTsv",
            recogniser="vlrun.features.formats.rosita_tsv:is_rosita_tsv",
        ),
        FeatureFormat(
            name="lxmert-tsv",
            summary="TSV file of 10 columns (img_id, img_h, img_w, ...), or a folder of them",
            opener="vlrun.features.formats.tsv:open_lxmert_tsv",
            recogniser="vlrun.features.formats.tsv:is_lxmert_tsv",
        ),
        FeatureFormat(
            name="butd-tsv",
            summary="TSV file of 6 columns (image_id, image_w, image_h, ...), or a folder of them",
            opener="vlrun.features.formats.tsv:open_butd_tsv",
            recogniser="vlrun.features.formats.tsv:is_butd_tsv",
        ),
        FeatureFormat(
            name="vilbert-lmdb",
            summary="LMDB of ViLBERT or VOLTA, pickled dicts with a list of 'keys'",
            opener="vlrun.features.formats.lmdb_files:PickledLmdb",
            recogniser="vlrun.features.formats.lmdb_files:is_vilbert_lmdb",
        ),
        FeatureFormat(
            name="uniter-lmdb",
            summary="image database of UNITER, keys are names of .npz files, with image sizes beside it",
            opener="vlrun.features.formats.uniter:UniterLmdb",
            recogniser="vlrun.features.formats.uniter:is_uniter_lmdb",
        ),
        FeatureFormat(
            name="vinvl-tsv",
            summary="features.tsv, *.feature.tsv or predictions.tsv of VinVL, with image sizes beside it",
            opener="vlrun.features.formats.vinvl:VinvlTsv",
            recogniser="vlrun.features.formats.vinvl:is_vinvl_tsv",
        ),
        FeatureFormat(
            name="mmf-npy",
            summary="folder of MMF with NAME.npy and NAME_info.npy per image",
            opener="vlrun.features.formats.mmf:MmfFolder",
            recogniser="vlrun.features.formats.mmf:is_mmf_folder",
        ),
        FeatureFormat(
            name="mmf-lmdb",
            summary="LMDB of MMF, pickled dicts with image_height, image_width and bbox",
            opener="vlrun.features.formats.lmdb_files:PickledLmdb",
            recogniser="vlrun.features.formats.lmdb_files:is_mmf_lmdb",
        ),
        FeatureFormat(
            name="volta-hdf5",
            summary="HDF5 file of VOLTA, a group per image with features, boxes, obj_id, img_h, ...",
            opener="vlrun.features.formats.volta_hdf5:VoltaHdf5",
            recogniser="vlrun.features.formats.volta_hdf5:is_volta_hdf5",
        ),
        FeatureFormat(
            name="gqa-hdf5",
            summary="object features of GQA's authors, gqa_objects_*.h5 with gqa_objects_info.json",
            opener="vlrun.features.formats.gqa_hdf5:GqaObjects",
            recogniser="vlrun.features.formats.gqa_hdf5:is_gqa_objects",
        ),
    ]


@hookimpl
def vlrun_downloads() -> list[Download]:
    """The vocabulary of BERT, which most backbones share."""
    return [
        Download(
            name="bert-base-uncased-vocab",
            summary="WordPiece vocabulary of bert-base-uncased, 30,522 lines",
            kind="vocabulary",
            makes="bert-base-uncased.txt",
            recognised=("vocab.txt", "bert-base-uncased-vocab.txt", "bert-base-uncased.txt"),
            files=(
                RemoteFile(
                    name="vocab.txt",
                    urls=("https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",),
                    size=231_508,
                    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                ),
            ),
            page="https://huggingface.co/google-bert/bert-base-uncased",
            licence="Apache-2.0",
        )
    ]


@hookimpl
def vlrun_commands() -> list[Command]:
    """The verbs of the core, in the order in which the help shows them."""
    return [
        Command(name=name, summary=summary, module=f"vlrun.cli.{_MODULES.get(name, name.replace('-', '_'))}")
        for name, summary in _VERBS.items()
    ]

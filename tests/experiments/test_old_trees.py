"""What the plugins declare of published files fits their builders, and folders of other projects are recognised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from vlrun import RegionFeatureStore, load_experiment
from vlrun.cli import main
from vlrun.data.needs import needs_of
from vlrun.plugins.downloads import Download
from vlrun.plugins.manager import Plugins, create_plugins

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path for path in (ROOT / "experiments").rglob("*.yaml") if not path.name.startswith("demo"))
VOLTA = "resnet101_faster_rcnn_genome_imgfeats/volta"
EXTRACTED = {"gqa-bua36"}
"""Feature stores that nobody publishes."""


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return create_plugins()


def test_every_download_is_made_by_a_command_that_exists(plugins: Plugins) -> None:
    downloads = plugins.downloads()
    assert len(downloads) > 30
    for download in downloads.values():
        if download.kind == "annotations":
            builders = plugins.find("dataset", download.makes).builders
            assert download.source in [builder.source for builder in builders], download.name
        elif download.kind == "features":
            assert download.source in ("", *plugins.feature_formats()), download.name
        elif download.kind == "weights":
            assert download.source in plugins.weight_formats(), download.name
        assert set(download.optional) <= set(download.recognised), download.name


def test_every_address_is_one(plugins: Plugins) -> None:
    for download in plugins.downloads().values():
        assert urlsplit(download.page).scheme == "https", download.name
        for file in download.files:
            assert file.urls, download.name
            assert all(urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc for url in file.urls)
            assert file.sha256 is None or len(file.sha256) == 64


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_can_be_told_where_its_files_are(path: Path, plugins: Plugins) -> None:
    experiment = load_experiment(path, [f"data_root={ROOT / 'nowhere'}"], plugins=plugins)
    needs = needs_of(experiment)
    images = set() if experiment.backbone.pictures() else {"features"}  # pictures are no made file
    assert {need.kind for need in needs} >= {"vocabulary", "annotations"} | images
    for need in needs:
        assert need.fitting(plugins.downloads()) or need.makes in EXTRACTED or need.kind == "other", need
        assert all(file.remedy for file in need.files)


def test_a_folder_of_volta_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "datasets/flickr30k/annotations"
    captions.mkdir(parents=True)
    for number, name in enumerate(("train_ann.jsonl", "valid_ann.jsonl", "test_ann.jsonl"), 1):
        row = {"sentences": [f"caption {n}" for n in range(5)], "id": str(number), "img_path": f"{number}.jpg"}
        (captions / name).write_text(json.dumps(row) + "\n")
    statements = tmp_path / "datasets/nlvr2/annotations"
    statements.mkdir(parents=True)
    row = {"identifier": "dev-1-0-0", "sentence": "A dog.", "label": "True"}
    (statements / "dev.json").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "data"))
    assert main(["data", "prepare", "--from", str(tmp_path / "datasets")]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path}/data/annotations/flickr30k <- {captions} (flickr30k-volta)" in shown
    assert f"{tmp_path}/data/annotations/nlvr2 <- {statements} (nlvr2-official)" in shown
    assert "left out: nlvr2/data/train.json, nlvr2/data/test1.json, nlvr2/data/test2.json" in shown  # not dev.json
    built = {path.name for path in (tmp_path / "data/annotations/flickr30k").iterdir()}
    assert built == {"train.jsonl", "val.jsonl", "test.jsonl", "sources.json"}


def test_the_stores_of_volta_are_recognised(tmp_path: Path, plugins: Plugins) -> None:
    from vlrun.data.needs import possible_needs
    from vlrun.data.preparing import plan
    from vlrun.data.trees import trees_of

    wanted = {
        "coco-volta36": f"mscoco/{VOLTA}/trainval_feat.lmdb",
        "flickr30k-volta36": f"flickr30k/{VOLTA}/flickr30k_feat.lmdb",
        "nlvr2-volta36": f"nlvr2/{VOLTA}/nlvr2_feat.lmdb",
        "refcoco+-volta36": f"refcoco+_unc/{VOLTA}/refcoco+_unc_dets36_feat.lmdb",
    }
    for path in wanted.values():
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "data.mdb").touch()
    downloads = plugins.downloads()
    steps = plan(
        possible_needs(downloads.values(), tmp_path / "data"),
        trees_of([tmp_path], tmp_path / "data", downloads),
        downloads,
    )
    found = {step.need.makes: step.candidates[0].sources for step in steps if step.candidates}
    assert found == {name: (tmp_path / path,) for name, path in wanted.items()}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ("rosita/mini", {"coco-bua36", "coco-retrieval", "refcoco", "vqav2", "bert-base-uncased.txt"}),
        (
            "lxmert_s/mini_data",
            {"vqav2", "gqa", "nlvr2", "flickr30k", "coco-obj36", "gqa-obj36", "nlvr2-obj36", "flickr30k-obj36"},
        ),
    ],
)
def test_one_command_makes_everything_that_an_old_folder_has(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: str, expected: set[str]
) -> None:
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "data"))
    assert main(["data", "prepare", "--from", str(golden / tree)]) == 0
    assert {path.name for path in (tmp_path / "data").glob("*/*")} == expected


def test_the_tree_that_rosita_was_pretrained_on_gives_texts_with_graphs_and_features(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = golden / "rosita/pretrain_data/mini"
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "data"))
    assert main(["data", "prepare", "--from", str(tree)]) == 0
    stores = {path.name: len(RegionFeatureStore(path)) for path in (tmp_path / "data/features").iterdir()}
    assert stores == {"coco-bua36": 5, "conceptual-captions-bua36": 3, "sbu-bua36": 2, "visual-genome-bua36": 4}
    assert [path.name for path in (tmp_path / "data/vocab").iterdir()] == ["bert-base-uncased.txt"]
    annotations = tmp_path / "data/annotations/rosita-pretraining"
    lines = {path.stem: len(path.read_text().splitlines()) for path in annotations.glob("*.jsonl")}
    rows = [len(path.read_text().splitlines()) for path in tree.glob("annotations/*/*.tsv")]
    assert sum(lines.values()) == sum(rows)
    assert lines["heldout"] > 0
    assert (annotations / "classes.txt").read_text() == (tree / "genome_vocabs/objects_vocab.txt").read_text()
    assert "nothing was made of" in capsys.readouterr().out, "attributes_vocab.txt"


def test_the_data_root_may_be_an_old_folder(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(golden / "rosita/mini", tmp_path / "rosita")
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "rosita"))
    command = ["data", "prepare", str(ROOT / "experiments/rosita_refcoco.yaml"), "backbone.weights=null"]
    assert main(command) == 0
    assert (tmp_path / "rosita/annotations/refcoco/train.jsonl").is_file()


def test_a_declaration_says_what_can_be_got_by_a_program() -> None:
    shared = {"name": "a", "summary": "", "kind": "weights", "makes": "a", "recognised": ("a",), "page": "p"}
    assert not Download(**shared).is_automatic  # type: ignore[arg-type]


@pytest.mark.samples
@pytest.mark.slow
def test_real_samples_reach_a_real_run(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Official questions of VQA v2, rows of LXMERT's features, BERT's vocabulary with its published hash."""
    old = tmp_path / "old"
    (old / "vqa").mkdir(parents=True)
    for kind in ("v2_OpenEnded_mscoco_train2014_questions", "v2_mscoco_train2014_annotations"):
        shutil.copy(samples / f"vqav2/{kind}.with_features.json", old / "vqa" / f"{kind}.json")
    shutil.copytree(samples / "features/lxmert_tsv", old / "mscoco_imgfeat")
    shutil.copy(samples / "vocabs/lxmert_vqa_trainval_label2ans.json", old / "vqa/trainval_label2ans.json")
    (tmp_path / "words").mkdir()
    shutil.copy(samples / "vocabs/bert_base_uncased_vocab.txt", tmp_path / "words/vocab.txt")
    monkeypatch.setenv("VLRUN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VLRUN_RUNS", str(tmp_path / "runs"))
    experiment = [str(ROOT / "experiments/lxmert_vqa.yaml"), "backbone.weights=null"]
    experiment += ["tasks.0.dataset.train=[train]", "tasks.0.dataset.evaluate=[train]"]
    mirror = ["--from", str(tmp_path / "words"), "--offline"]
    assert main(["data", "get", "bert-base-uncased-vocab", *mirror]) == 0
    assert "hash as published" in capsys.readouterr().out
    assert main(["data", "prepare", *experiment, "--from", str(old)]) == 0
    assert "everything is there" in capsys.readouterr().out
    quick = ["backbone.size=tiny", "train.epochs=1", "train.batch_size=4", "train.workers=0"]
    assert main(["run", *experiment, *quick]) == 0
    status = tmp_path / "runs/lxmert_vqa/latest/status.json"
    assert json.loads(status.read_text())["status"] == "done"

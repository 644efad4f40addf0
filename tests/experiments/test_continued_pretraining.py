"""From the authors' pre-training files to a fine-tuned run: imported with all heads, trained on, and built upon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vlrun.cli import main
from vlrun_lxmert_s.checkpoint import BERT_VOCABULARY_SIZE, VISUAL_CLS_TABLE

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = {
    "rosita": ("rosita_pretrain", "rosita_vqa"),
    "lxmert": ("lxmert_pretrain", "lxmert_vqa"),
    "lxmert-s": ("lxmert_s_pretrain_3_sentence", "lxmert_s_vqa"),
}
"""Their layout -> the experiments that pre-train and fine-tune."""

VISUAL_CLS = f"bert.{VISUAL_CLS_TABLE}"

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """``run(experiment, *overrides)``: the folder of its demo run on a few examples."""
    monkeypatch.setenv("VLRUN_CACHE", str(tmp_path.parent / "cache"))

    def make(experiment: str, *overrides: str) -> Path:
        quick = ["tasks.0.dataset.limit=16", "train.workers=0", "train.log_every=1", "train.batch_size=8"]
        folder = tmp_path / f"run{len([*tmp_path.glob('run*')])}"
        command = ["run", str(ROOT / f"experiments/{experiment}.yaml"), "--demo", "--output", str(folder)]
        assert main([*command, *quick, "train.remove_evaluation_images=false", *overrides]) == 0, (
            capsys.readouterr().err
        )
        (latest,) = folder.glob("*/latest")
        return latest.resolve()

    return make


def results(folder: Path) -> dict[tuple[str, str], float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {(row["split"], row["name"]): row["value"] for row in rows if row["kind"] == "result" and row["final"]}


def as_the_authors_save_it(exported: Path, layout: str) -> Path:
    """A pickle; ROSITA's has a dict for each module, LXMERT-S's a visual [CLS] row for each word of BERT."""
    tensors = load_file(exported / "model.safetensors")
    if layout == "lxmert-s":  # all rows are the same, and only that of [CLS] is ever read
        tensors[VISUAL_CLS] = tensors[VISUAL_CLS][:1].expand(BERT_VOCABULARY_SIZE, -1).contiguous()
    content: dict[str, Any] = dict(tensors)
    if layout == "rosita":
        content = {}
        for name, tensor in tensors.items():
            module, _, rest = name.partition(".")
            content.setdefault(module, {})[rest] = tensor
    path = exported.with_suffix(".pkl")
    torch.save(content, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_the_authors_are_trained_on_and_fine_tuned(
    layout: str, run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretraining, task = LAYOUTS[layout]
    first = run(pretraining, "train.epochs=1", "backbone.weights=null")
    assert (
        main(["weights", "export", str(first), str(tmp_path / "theirs"), "--to", layout, "--checkpoint", "last"]) == 0
    )
    theirs, imported = as_the_authors_save_it(tmp_path / "theirs", layout), tmp_path / "imported.safetensors"
    heads = ["--num-heads", str(yaml.safe_load((first / "config.yaml").read_text())["backbone"].get("num_heads") or 4)]
    words = next((tmp_path.parent / "cache").rglob("vocabulary.txt"))
    if layout == "lxmert":
        heads += ["--answers", str(next((tmp_path.parent / "cache").rglob("annotations/*/answers.json")))]
    command = ["weights", "import", "--from", layout, str(theirs), str(imported), "--vocabulary", str(words), *heads]
    assert main(command) == 0, capsys.readouterr().err

    same = run(pretraining, "train.epochs=0", f"backbone.weights={imported}")
    assert results(same) == pytest.approx(results(first), rel=1e-5), "no head is lost on the way"
    further = run(pretraining, "train.epochs=1", "seed=4", f"backbone.weights={imported}")
    assert results(further) != results(first)

    assert main(["weights", "export", str(further), str(tmp_path / "mine.safetensors")]) == 0
    tuned = run(task, "train.epochs=1", f"backbone.weights={tmp_path / 'mine.safetensors'}")
    assert results(tuned)

"""LXMERT goes to Hugging Face's layout and back, computes the same there, and keeps what is known of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_files import answer_layers, authors_state
from safetensors.torch import load_file, save_file

from vlrun.cli import main
from vlrun.engine.weight_files import read_imported
from vlrun_lxmert_s.model import Lxmert

transformers = pytest.importorskip("transformers")

HEADS = ("--num-heads", "2")  # the tests' networks are of no known width
ANSWERS = [f"answer {number}" for number in range(7)]


def distinct(network: Lxmert) -> Lxmert:
    """The same network with random numbers everywhere, biases and norms too, so that every one of them counts."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        is_scale = name.endswith(("LayerNorm.weight", "layer_norm.weight"))  # small ones would hide what lies before
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.3)
    return network.eval()


@pytest.fixture
def ours(make_network: Callable[..., Lxmert]) -> Lxmert:
    return distinct(make_network("lxmert"))


@pytest.fixture
def vocabulary(tmp_path: Path, ours: Lxmert) -> Path:
    return tmp_path / "vocabulary_20.txt"  # written for the network


@pytest.fixture
def imported(ours: Lxmert, vocabulary: Path, tmp_path: Path) -> Path:
    """Weights in the authors' layout with both heads, imported."""
    content = {
        **authors_state(ours),
        **answer_layers("answer_head."),
        "cls.seq_relationship.weight": ours.seq_relationship.weight.detach(),
        "cls.seq_relationship.bias": ours.seq_relationship.bias.detach(),
    }
    torch.save(content, tmp_path / "model_LXRT.pth")
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS))
    out = tmp_path / "lxmert.safetensors"
    arguments = ["--vocabulary", str(vocabulary), "--answers", str(tmp_path / "answers.json"), *HEADS]
    assert main(["weights", "import", "--from", "lxmert", str(tmp_path / "model_LXRT.pth"), str(out), *arguments]) == 0
    return out


@pytest.fixture
def folder(imported: Path, vocabulary: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "hf"
    options = ["--to", "hf-lxmert", "--vocabulary", str(vocabulary)]
    assert main(["weights", "export", str(imported), str(folder), *options]) == 0
    return folder


def inputs(padded: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    text_mask = torch.ones(2, 5, dtype=torch.bool)
    text_mask[1, 3:] = not padded
    return {
        "input_ids": torch.randint(5, 20, (2, 5)),
        "attention_mask": text_mask,
        "visual_feats": torch.rand(2, 3, 6),
        "visual_pos": torch.rand(2, 3, 4),
        "visual_attention_mask": torch.ones(2, 3, dtype=torch.bool),
    }


def output_of(ours: Lxmert) -> Any:
    from vlrun import Encoding

    values = inputs()
    encoding = Encoding(
        values["input_ids"],
        values["attention_mask"],
        values["visual_feats"],
        values["visual_pos"],
        values["visual_attention_mask"],
    )
    with torch.inference_mode():
        return ours(encoding)


def assert_close(theirs: torch.Tensor, ours: torch.Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_the_network_computes_the_same_in_transformers(ours: Lxmert, folder: Path) -> None:
    theirs, report = transformers.LxmertModel.from_pretrained(folder, output_loading_info=True)
    with torch.inference_mode():
        expected = theirs.eval()(**inputs())

    output = output_of(ours)

    assert not report["missing_keys"]
    assert_close(expected.language_output, output.text)
    assert_close(expected.vision_output, output.regions)
    assert_close(expected.pooled_output, output.pooled)


def test_the_matching_and_the_answer_head_too(ours: Lxmert, imported: Path, folder: Path) -> None:
    theirs, report = transformers.LxmertForPreTraining.from_pretrained(folder, output_loading_info=True)
    with torch.inference_mode():
        expected = theirs.eval()(**inputs())
        pooled = output_of(ours).pooled
        matching = ours.seq_relationship(pooled)

    answers = {name: tensor for name, tensor in load_file(imported).items() if name.startswith("answer_head.")}
    hidden = torch.nn.functional.gelu(
        pooled @ answers["answer_head.dense0.weight"].T + answers["answer_head.dense0.bias"]
    )
    normed = torch.nn.functional.layer_norm(
        hidden,
        hidden.shape[1:],
        answers["answer_head.layer_norm.weight"],
        answers["answer_head.layer_norm.bias"],
        1e-12,
    )
    assert_close(expected.cross_relationship_score, matching)
    assert_close(
        expected.question_answering_score,
        normed @ answers["answer_head.dense1.weight"].T + answers["answer_head.dense1.bias"],
    )
    assert all(name.startswith(("cls.predictions.", "obj_predict_head.")) for name in report["missing_keys"])


def test_auto_classes_find_class_and_vocabulary(folder: Path, vocabulary: Path) -> None:
    assert type(transformers.AutoConfig.from_pretrained(folder)).__name__ == "LxmertConfig"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LxmertForPreTraining"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    assert tokenizer("A cat, on THE left")["input_ids"] == [2, 5, 6, 13, 9, 10, 11, 3]
    assert (folder / "vocab.txt").read_text() == vocabulary.read_text()


def test_the_way_back_keeps_tensors_and_facts(imported: Path, folder: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"

    assert main(["weights", "import", "--from", "hf-lxmert", str(folder), str(back)]) == 0

    (before, facts), (after, facts_after) = read_imported(imported), read_imported(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    for key in ("vocabulary_hash", "pretraining_sets", "licence", "options", "heads", "forward_check"):
        assert facts_after[key] == facts[key], key
    assert facts["options"]["num_heads"] == 2
    assert facts["heads"] == {"answer_head": {"answers": ANSWERS}}


def test_images_that_a_run_has_seen_survive_the_way_there_and_back(imported: Path, tmp_path: Path) -> None:
    """Else a network that was tuned on a test image would come back innocent."""
    from vlrun.engine.weight_files import write_imported

    tensors, facts = read_imported(imported)
    tuned = tmp_path / "tuned.safetensors"
    write_imported(tuned, tensors, {**facts, "pretraining_sets": ["COCO_test2015_1"], "features": {"boxes": "7"}}, ())

    assert main(["weights", "export", str(tuned), str(tmp_path / "hf"), "--to", "hf-lxmert"]) == 0
    assert (
        main(["weights", "import", "--from", "hf-lxmert", str(tmp_path / "hf"), str(tmp_path / "b.safetensors")]) == 0
    )

    _, after = read_imported(tmp_path / "b.safetensors")
    assert "COCO_test2015_1" in after["pretraining_sets"]
    assert after["features"] == {"extractor": "", "weights": "", "boxes": "7"}


def test_plain_is_our_names_with_the_options(imported: Path, tmp_path: Path) -> None:
    assert main(["weights", "export", str(imported), str(tmp_path / "plain"), "--to", "plain"]) == 0

    tensors, _ = read_imported(imported)
    written = load_file(tmp_path / "plain" / "model.safetensors")
    assert all(torch.equal(tensor, written[name]) for name, tensor in tensors.items())
    assert len(written) == len(tensors)
    assert json.loads((tmp_path / "plain" / "config.json").read_text()) == {
        "backbone": "lxmert",
        "hidden_size": 8,
        "num_heads": 2,
        "feed_forward_size": 16,
        "num_language_layers": 1,
        "num_cross_layers": 2,
        "num_object_layers": 1,
        "max_positions": 12,
        "region_feature_size": 6,
    }


def test_an_nlvr2_head_has_no_place_there_and_is_said_to_stay(
    ours: Lxmert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({**authors_state(ours), **answer_layers("", images=2, answers=2)}, tmp_path / "BEST.pth")
    out = str(tmp_path / "nlvr2.safetensors")
    assert main(["weights", "import", "--from", "lxmert", str(tmp_path / "BEST.pth"), out, *HEADS]) == 0
    capsys.readouterr()

    assert main(["weights", "export", out, str(tmp_path / "hf"), "--to", "hf-lxmert"]) == 0

    assert "left behind: nlvr2_head" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--to", "rosita"], 2, "have no layout 'rosita' (they have: plain, hf-lxmert, lxmert)"),
        ([], 2, "say in which layout: --to plain"),
    ],
)
def test_a_layout_that_there_is_not_names_those_that_there_are(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert main(["weights", "export", str(imported), str(tmp_path / "x"), *arguments]) == status
    assert message in capsys.readouterr().err


def test_a_folder_with_files_is_not_overwritten(
    imported: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "model.safetensors").read_bytes()

    assert main(["weights", "export", str(imported), str(folder), "--to", "plain"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before


def test_another_vocabulary_does_not_go_along(
    imported: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(vocabulary.read_text() + "more\n")
    options = ["--to", "plain", "--vocabulary", str(other)]

    assert main(["weights", "export", str(imported), str(tmp_path / "x"), *options]) == 6
    assert "the weights were trained with" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_folder_with_a_cased_vocabulary_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Cat")))
    out = tmp_path / "out.safetensors"

    assert main(["weights", "import", "--from", "hf-lxmert", str(folder), str(out)]) == 5
    assert "a cased vocabulary (1 of its tokens have capitals, such as 'Cat')" in capsys.readouterr().err
    assert not out.exists()


# --- the stored forward pass ---


def test_a_check_finds_nothing_wrong_with_what_was_just_imported(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "check", str(imported)]) == 0

    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[0] == "hash: as in lxmert.json"
    assert [line.split("'")[1] for line in lines[1:]] == ["text", "regions", "pooled", "matching"]


@pytest.mark.parametrize(
    "name", ["embeddings.LayerNorm.bias", "encoder.r_layers.0.output.dense.weight", "pooler.dense.bias"]
)
def test_a_check_finds_a_changed_tensor(imported: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    tensors, facts = read_imported(imported)
    tensors[name][0] += 0.3
    save_file(tensors, imported, {"vlrun": json.dumps(facts)})
    assert main(["weights", "check", str(imported)]) == 6
    assert "not those that were written, by the hash in it" in capsys.readouterr().err

    del facts["content_sha256"]  # files of earlier versions have none
    save_file(tensors, imported, {"vlrun": json.dumps(facts)})
    assert main(["weights", "check", str(imported)]) == 6
    assert "its hash is not the one in lxmert.json" in capsys.readouterr().err

    imported.with_suffix(".json").unlink()
    assert main(["weights", "check", str(imported)]) == 6
    assert "differs by up to" in capsys.readouterr().err


def test_a_check_finds_a_network_that_computes_something_else(
    imported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlrun_lxmert_s.layers import Pooler

    before = Pooler.forward
    monkeypatch.setattr(Pooler, "forward", lambda self, states: before(self, states) * 1.01)

    assert main(["weights", "check", str(imported)]) == 6
    assert "output 'pooled' differs" in capsys.readouterr().err


def test_a_head_count_that_is_unknown_is_said_and_nothing_is_guessed(
    ours: Lxmert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(authors_state(ours), tmp_path / "a.pth")
    out = str(tmp_path / "a.safetensors")

    assert main(["weights", "import", "--from", "lxmert", str(tmp_path / "a.pth"), out]) == 0
    assert "not stored: what the network computes" in capsys.readouterr().out
    assert main(["weights", "export", out, str(tmp_path / "x"), "--to", "hf-lxmert"]) == 6
    assert "import it with --num-heads" in capsys.readouterr().err
    assert main(["weights", "check", out]) == 6
    assert "with --num-heads where its width is an uncommon one" in capsys.readouterr().err


def test_heads_that_do_not_divide_the_width_are_refused(
    ours: Lxmert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(authors_state(ours), tmp_path / "a.pth")
    arguments = [str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"), "--num-heads", "3"]

    assert main(["weights", "import", "--from", "lxmert", *arguments]) == 6
    assert "num_heads 3 does not divide hidden_size 8" in capsys.readouterr().err

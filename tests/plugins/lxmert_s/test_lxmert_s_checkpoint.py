"""Files of the authors, of Hugging Face and of BERT fill the networks; files of another kind are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from authors_files import (
    MATCHING,
    answer_layers,
    assert_same,
    authors_state,
    bert_state,
    imported,
    pretraining_heads,
    trunk_of,
)
from safetensors.torch import load_file

from vlrun import CheckpointError
from vlrun.blocks.heads import PooledClassifier
from vlrun.cli import main
from vlrun.data.leaks import find_leaks
from vlrun.engine.weight_files import import_weights, read_imported
from vlrun.engine.weights import HeadSlot, load_weights
from vlrun_lxmert_s import checkpoint
from vlrun_lxmert_s.checkpoint import translate_bert, translate_lxmert, translate_lxmert_s
from vlrun_lxmert_s.model import Lxmert
from vlrun_lxmert_s.plugin import vlrun_weight_formats

MakeNetwork = Callable[..., Lxmert]
FORMATS = {weight_format.name: weight_format for weight_format in vlrun_weight_formats()}
LAYERS = {"dense0": "0", "layer_norm": "2", "dense1": "3"}

both = pytest.mark.parametrize("name", ["lxmert-s", "lxmert"])


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the importers take tables of 20 rows for BERT's; [CLS] is 2 in the vocabulary of the small networks."""
    monkeypatch.setattr(checkpoint, "BERT_VOCABULARY_SIZE", 20)
    monkeypatch.setattr(checkpoint, "BERT_CLS_ID", 2)


@both
@pytest.mark.parametrize("several_devices", [False, True], ids=["one device", "several"])
def test_a_pretraining_file_fills_backbone_and_heads(
    make_network: MakeNetwork, tmp_path: Path, name: str, several_devices: bool
) -> None:
    trained, fresh = make_network(name), make_network(name)
    content = {**authors_state(trained), **pretraining_heads(name)}
    wrapped = {f"module.{key}" if several_devices else key: tensor for key, tensor in content.items()}
    path = imported({**wrapped, "epoch": 3}, tmp_path, FORMATS[name])
    matching, answers = fresh.matching_head(), PooledClassifier(8, 7)

    report = load_weights(fresh, path, heads=[HeadSlot("answer_head", answers)])

    assert (report.missing, report.unexpected) == ((), ())
    assert_same(trunk_of(fresh), trunk_of(trained))
    assert torch.equal(matching.weight, content["cls.seq_relationship.weight"])
    assert torch.equal(answers.dense1.weight, content["answer_head.logit_fc.3.weight"])
    assert torch.equal(answers.layer_norm.bias, content["answer_head.logit_fc.2.bias"])


@both
@pytest.mark.parametrize("wrapper", ["lxrt_encoder.model.", "lxrt_encoder.model.module.", "module.lxrt_encoder.model."])
@pytest.mark.parametrize(("images", "head"), [(1, "answer_head"), (2, "nlvr2_head")], ids=["answers", "nlvr2"])
def test_a_fine_tuned_snapshot_fills_backbone_and_classifier(
    make_network: MakeNetwork, tmp_path: Path, name: str, wrapper: str, images: int, head: str
) -> None:
    trained, fresh = make_network(name), make_network(name)
    content = {**authors_state(trained, f"{wrapper}bert."), **answer_layers("", images)}
    classifier = PooledClassifier(8, 7, images)

    report = load_weights(fresh, imported(content, tmp_path, FORMATS[name]), heads=[HeadSlot(head, classifier)])

    assert (report.missing, report.unexpected) == (MATCHING, ())
    assert_same(trunk_of(fresh), trunk_of(trained))
    assert torch.equal(classifier.dense0.weight, content["logit_fc.0.weight"])


def test_a_fine_tuned_retrieval_snapshot_fills_the_matching_head(make_network: MakeNetwork, tmp_path: Path) -> None:
    trained, fresh = make_network("lxmert-s"), make_network("lxmert-s")
    head = {f"seq_relationship_new.{key}": tensor for key, tensor in trained.matching_head().state_dict().items()}
    content = {**authors_state(trained, "lxrt_encoder.model.bert."), **head}

    report = load_weights(fresh, imported(content, tmp_path, FORMATS["lxmert-s"]))

    assert (report.missing, report.unexpected) == ((), ())
    assert_same(fresh.state_dict(), trained.state_dict())


def test_the_topic_head_is_never_taken_for_the_matching_head(make_network: MakeNetwork, tmp_path: Path) -> None:
    heads = {name: tensor for name, tensor in pretraining_heads("lxmert-s").items() if ".seq_relationship." not in name}
    content = {**authors_state(make_network("lxmert-s")), **heads}

    names = load_file(imported(content, tmp_path, FORMATS["lxmert-s"]))

    assert not [name for name in names if "seq_relationship" in name]


def test_unknown_tensors_stay_behind_and_are_named(make_network: MakeNetwork, tmp_path: Path) -> None:
    content = {**authors_state(make_network("lxmert")), **pretraining_heads("lxmert"), "mystery": torch.ones(2)}
    torch.save(content, tmp_path / "source.pth")

    report = import_weights(tmp_path / "source.pth", tmp_path / "out.safetensors", FORMATS["lxmert"])

    assert report.left_behind == ("mystery (1 of 1 tensors)",)


@pytest.mark.parametrize(("name", "prefix"), [("lxmert-s", "bert."), ("lxmert", "bert."), ("hf-lxmert", "")])
def test_an_unknown_tensor_of_the_backbone_is_refused_and_named(
    make_network: MakeNetwork, name: str, prefix: str
) -> None:
    network = make_network(name.removeprefix("hf-"))
    content = {**authors_state(network, prefix), f"{prefix}adapter.weight": torch.ones(2)}

    with pytest.raises(CheckpointError, match=f"1 tensors of the backbone have no place in ours: '{prefix}adapter"):
        FORMATS[name].translate(content)


@both
def test_weights_with_more_cross_layers_than_the_network_are_refused(
    make_network: MakeNetwork, tmp_path: Path, name: str
) -> None:
    network = make_network(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    path = imported(authors_state(make_network(name, num_cross_layers=3)), tmp_path, FORMATS[name])

    with pytest.raises(CheckpointError, match=r"42 of its tensors have no place .*'encoder\.x_layers\.2\.") as caught:
        load_weights(network, path)

    remedy = "layers of 'encoder.x_layers': 3 in the file, 2 in the backbone; set backbone.num_cross_layers=3"
    assert remedy in str(caught.value)
    assert_same(network.state_dict(), before)
    load_weights(make_network(name, num_cross_layers=3), path)


@pytest.mark.parametrize(
    ("option", "stack"), [("num_language_layers", "encoder.layer"), ("num_object_layers", "encoder.r_layers")]
)
def test_weights_of_lxmert_in_a_network_without_such_layers_are_refused(
    make_network: MakeNetwork, tmp_path: Path, option: str, stack: str
) -> None:
    path = imported(authors_state(make_network("lxmert")), tmp_path, FORMATS["lxmert"])

    with pytest.raises(CheckpointError, match=f"'{stack}': 1 in the file, 0 in the backbone; set backbone.{option}=1"):
        load_weights(make_network("lxmert", **{option: 0}), path)


def test_weights_of_one_variant_are_refused_by_the_other(make_network: MakeNetwork, tmp_path: Path) -> None:
    """The original loads them in part and prints what is left over."""
    same_depth = make_network("lxmert", num_language_layers=0, num_object_layers=0)
    path = imported(authors_state(make_network("lxmert-s")), tmp_path, FORMATS["lxmert-s"])

    with pytest.raises(CheckpointError, match="3 of its tensors have no place in the backbone: 'pooler_f") as caught:
        load_weights(same_depth, path)

    assert "it was imported for backbone 'lxmert-s'" in str(caught.value)


def test_only_the_row_of_cls_comes_out_of_the_visual_table(make_network: MakeNetwork, tmp_path: Path) -> None:
    content = authors_state(make_network("lxmert-s"))

    row = load_file(imported(content, tmp_path, FORMATS["lxmert-s"]))["word_embeddings.weight"]

    assert row.tolist() == content["bert.word_embeddings.weight"][2:3].tolist()


def test_a_visual_table_of_an_unknown_vocabulary_is_refused(
    make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    content = authors_state(make_network("lxmert-s"))

    with pytest.raises(CheckpointError, match="table has 20 rows, not the 30,522 of bert-base-uncased"):
        translate_lxmert_s(content)
    assert len(translate_lxmert_s(content, cls_id=2)["word_embeddings.weight"]) == 1


@pytest.mark.parametrize("prefix", ["", "lxmert."], ids=["LxmertModel", "with heads"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_file_of_hugging_face_fills_lxmert(
    make_network: MakeNetwork, tmp_path: Path, prefix: str, suffix: str
) -> None:
    trained, fresh = make_network("lxmert"), make_network("lxmert")
    content = {f"{prefix}{name}": tensor for name, tensor in trunk_of(trained).items()}
    heads = pretraining_heads("lxmert") if prefix else {}
    path = imported({**content, **heads}, tmp_path, FORMATS["hf-lxmert"], suffix)

    report = load_weights(fresh, path)

    assert report.missing == (() if prefix else MATCHING)
    unused = {name.split(".")[0] for name in report.unused}
    assert unused == ({"answer_head", "word_head", "region_head"} if prefix else set())
    assert_same(trunk_of(fresh), trunk_of(trained))


@pytest.mark.golden
def test_the_names_of_hugging_face_are_ours(golden: Path, golden_network: Any) -> None:
    keymap = json.loads((golden / "lxmert_s" / "lxmert_hf_keymap.json").read_text())
    ours = set(golden_network("backbone_lxmert").network.state_dict())

    theirs = {name.removeprefix("lxmert.") for name in keymap["LxmertForQuestionAnswering_keys"]}

    assert ours == {name for name in theirs if not name.startswith("answer_head.")}


@both
@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("old_names", [False, True], ids=["weight", "gamma"])
def test_bert_fills_what_the_original_takes_from_it(
    make_network: MakeNetwork, tmp_path: Path, name: str, prefix: str, old_names: bool
) -> None:
    content = bert_state(make_network("lxmert"), prefix, old_names)
    network = make_network(name, **({"num_language_layers": 9} if name == "lxmert" else {}))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}

    report = load_weights(network, imported(content, tmp_path, FORMATS[f"bert-{name}"]))

    filled = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    assert filled == set(report.matched)
    assert len(filled) == 5 + 2 + (9 * 16 if name == "lxmert" else 0)
    norm = f"{prefix}embeddings.LayerNorm.{'beta' if old_names else 'bias'}"
    assert torch.equal(network.embeddings.LayerNorm.bias, content[norm])


def test_bert_for_a_network_with_fewer_language_layers_is_refused(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network("lxmert", num_language_layers=8)

    with pytest.raises(CheckpointError, match=r"have no place in the backbone: 'encoder\.layer\.8\.") as caught:
        load_weights(network, imported(bert_state(network, "bert.", False), tmp_path, FORMATS["bert-lxmert"]))

    assert "8 in the backbone; set backbone.num_language_layers=9" in str(caught.value)


def test_bert_for_a_network_with_more_language_layers_is_refused(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network("lxmert", num_language_layers=10)

    with pytest.raises(CheckpointError, match="it would fill some layers of the backbone and leave") as caught:
        load_weights(network, imported(bert_state(network, "bert.", False), tmp_path, FORMATS["bert-lxmert"]))

    assert "10 in the backbone; set backbone.num_language_layers=9" in str(caught.value)


def test_what_stays_behind_of_a_deep_bert_is_said_by_layer(make_network: MakeNetwork, tmp_path: Path) -> None:
    torch.save(bert_state(make_network("lxmert"), "bert.", False), tmp_path / "bert.bin")

    report = import_weights(tmp_path / "bert.bin", tmp_path / "out.safetensors", FORMATS["bert-lxmert"])

    assert report.left_behind[:3] == tuple(f"bert.encoder.layer.{index} (16 of 16 tensors)" for index in (9, 10, 11))


def test_a_shallow_bert_is_refused(make_network: MakeNetwork) -> None:
    content = bert_state(make_network("lxmert"), "bert.", False, num_layers=8)

    with pytest.raises(CheckpointError, match=r"without bert\.encoder\.layer\.8\.\*"):
        translate_bert(content, num_layers=9)
    assert len(translate_bert(content)) == 7


@pytest.mark.parametrize("kind", ["lxmert-s", "lxmert", "hf-lxmert", "bert"])
@pytest.mark.parametrize("asked", FORMATS)
def test_a_file_of_another_kind_is_refused_and_named(make_network: MakeNetwork, kind: str, asked: str) -> None:
    lxmert = make_network("lxmert")
    content = {
        "lxmert-s": lambda: authors_state(make_network("lxmert-s")),
        "lxmert": lambda: authors_state(lxmert),
        "hf-lxmert": lambda: authors_state(lxmert, "lxmert."),
        "bert": lambda: bert_state(lxmert, "bert.", True),
    }[kind]()

    if asked == kind or (kind == "bert" and asked.startswith("bert-")):
        assert FORMATS[asked].translate(content)
    else:
        with pytest.raises(CheckpointError, match=f"import it with --from (bert-lxmert-s or )?{kind}"):
            FORMATS[asked].translate(content)


@pytest.mark.parametrize("asked", FORMATS)
@pytest.mark.parametrize(
    "content",
    [{}, {"backbone": {"layers": torch.ones(2)}}, {"model": 3}, {"text_embeddings": torch.ones(2)}],
    ids=["empty", "nested", "no tensor", "other names"],
)
def test_files_of_no_known_kind_are_refused(asked: str, content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="nor of any kind known here; it begins with "):
        FORMATS[asked].translate(content)


def test_a_file_without_its_cross_modal_layers_fills_nothing(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network("lxmert")
    content = {name: tensor for name, tensor in authors_state(network).items() if ".x_layers.1." not in name}

    with pytest.raises(CheckpointError, match="of the backbone's"):
        load_weights(network, imported(content, tmp_path, FORMATS["lxmert"]))


@pytest.mark.golden
def test_the_authors_snapshot_comes_over_by_its_names(golden: Path, golden_network: Any) -> None:
    """``--loadLXMERTQA`` of the original: encoder, answer head, and matching head from one file."""
    vectors = np.load(golden / "lxmert_s" / "answer_head_transfer.npz")
    vqa = golden_network("vqa")
    network, state = vqa.network, vqa.network.state_dict()
    content = {}
    for name in map(str, vectors["snapshot_keys"]):
        ours = name.removeprefix("module.bert.")
        if f"snapshot/{name}" in vectors:
            content[name] = torch.from_numpy(vectors[f"snapshot/{name}"])
        elif ours == "word_embeddings.weight":
            content[name] = state[ours].expand(vqa.vocabulary_size, -1)
        else:
            content[name] = state.get(ours, torch.ones(1))

    tensors = translate_lxmert_s(content, cls_id=vqa.cls_id)

    in_backbone = {*network.state_dict(), *MATCHING}
    assert in_backbone < set(tensors)
    for kind in ("weight", "bias"):
        theirs = vectors[f"retrieval_after/seq_relationship_new.{kind}"]
        assert tensors[f"seq_relationship.{kind}"].numpy().tolist() == theirs.tolist()
    rows = vectors["row"]
    known = rows >= 0
    for ours, index in LAYERS.items():
        for kind in ("weight", "bias"):
            theirs = vectors[f"head_after/logit_fc.{index}.{kind}"]
            given = tensors[f"answer_head.{ours}.{kind}"].numpy()
            assert (
                np.array_equal(given[rows[known]], theirs[known]) if ours == "dense1" else np.array_equal(given, theirs)
            )
    heads = {name.split(".")[0] for name in set(tensors) - in_backbone}
    assert heads == {"answer_head", "word_head", "region_head", "topic_head"}


def test_the_command_imports_and_inspects(
    make_network: MakeNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = make_network("lxmert")
    source, out = tmp_path / "model_LXRT.pth", tmp_path / "lxmert.safetensors"
    torch.save({**authors_state(network), **pretraining_heads("lxmert")}, source)
    vocabulary = next(tmp_path.glob("vocabulary_*.txt"))

    found = main(["weights", "inspect", str(source)])
    done = main(["weights", "import", "--from", "lxmert", str(source), str(out), "--vocabulary", str(vocabulary)])

    printed = capsys.readouterr().out
    assert (found, done) == (0, 0)
    assert "formats that read it: lxmert\n" in printed
    assert load_weights(network, out).metadata["vocabulary_hash"] == network.vocabulary_hash


def test_integers_are_no_weights(make_network: MakeNetwork) -> None:
    content = {**authors_state(make_network("lxmert")), "bert.embeddings.position_ids": torch.arange(12)}

    assert "embeddings.position_ids" not in translate_lxmert(content)


@both
def test_an_import_records_the_images_that_the_weights_have_seen(
    make_network: MakeNetwork, tmp_path: Path, name: str
) -> None:
    """LXMERT's for certain but for minival, where nobody lists it; LXMERT-S saw an unknown part of the same."""
    path = imported(authors_state(make_network(name)), tmp_path, FORMATS[name])
    declared = read_imported(path, header_only=True)[1]["pretraining_sets"]
    images = [f"COCO_{part}_{number:012d}" for number, part in enumerate(("train2014", "val2014", "test2015"), 1)]

    (leak,) = find_leaks({}, {("vqa", "val"): images}, declared, lists={("vqav2", "minival"): {"coco:9"}})
    counts = (list(leak.seen.values()), list(leak.possibly.values()))
    assert counts == (([2], []) if name == "lxmert" else ([], [2]))
    (leak,) = find_leaks({}, {("vqa", "val"): images}, declared)
    counts = (list(leak.seen.values()), list(leak.possibly.values()))
    assert counts == (([1], [1]) if name == "lxmert" else ([], [2]))
    lists = {("vqav2", "minival"): {"coco:2"}}
    assert find_leaks({}, {("vqa", "minival"): images[1:]}, declared, lists=lists) == []


def test_bert_has_seen_no_image() -> None:
    assert [FORMATS[name].seen for name in ("bert-lxmert", "bert-lxmert-s")] == [(), ()]

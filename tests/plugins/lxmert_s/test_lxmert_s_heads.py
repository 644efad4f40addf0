"""LXMERT's and LXMERT-S's heads of pre-training: there and back under the authors' names, and equal to their outputs.

``golden/lxmert_s/pretrain_{lxmert,s}.npz``; tolerances: the README of the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_files import bert_state, imported
from safetensors.torch import load_file
from torch import Tensor, nn

from vlrun import BackboneOutput, Encoding, NamedHead
from vlrun.blocks.decoders import (
    ANSWER_HEAD,
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    REGION_HEAD,
    TOPIC_HEAD,
    WORD_HEAD,
    RegionHead,
    TopicHead,
    WordHead,
)
from vlrun.blocks.heads import PooledClassifier
from vlrun.cli import main
from vlrun.engine.weight_files import import_weights, read_imported
from vlrun.engine.weights import HeadSlot, LoadReport, load_weights
from vlrun_lxmert_s import checkpoint
from vlrun_lxmert_s.model import Lxmert, LxmertS
from vlrun_lxmert_s.plugin import vlrun_weight_formats

pytestmark = pytest.mark.golden

FORMATS = {weight_format.name: weight_format for weight_format in vlrun_weight_formats()}
TOLERANCE = 2e-5
SCORES = {FEATURES: "feat_score", CLASSES: "obj_score", ATTRIBUTES: "attr_score"}

both = pytest.mark.parametrize(
    ("file", "format_name"), [("pretrain_lxmert", "lxmert"), ("pretrain_s", "lxmert-s")], ids=["lxmert", "lxmert-s"]
)


class PretrainingHead(nn.Module):
    """All heads of the authors' pre-training, made of the shared blocks."""

    def __init__(self, backbone: Lxmert, state: dict[str, Tensor]) -> None:
        super().__init__()
        is_simplified = isinstance(backbone, LxmertS)
        rows = {
            name: len(state[f"obj_predict_head.decoder_dict.{theirs}.bias"])
            for name, theirs in ((FEATURES, "feat"), (CLASSES, "obj"), (ATTRIBUTES, "attr"))
        }
        self.matching = backbone.matching_head()
        self.words = WordHead.of(backbone)
        self.regions = RegionHead(backbone.hidden_size, rows, times_pooled=is_simplified)
        self.answers = PooledClassifier(backbone.hidden_size, len(state["answer_head.logit_fc.3.bias"]))
        self.topics = TopicHead(backbone.hidden_size, backbone.wordpiece.size) if is_simplified else None

    def named(self) -> dict[str, NamedHead]:
        heads = {WORD_HEAD: self.words.named(), REGION_HEAD: self.regions.named(), ANSWER_HEAD: NamedHead(self.answers)}
        return heads if self.topics is None else {**heads, TOPIC_HEAD: self.topics.named()}

    def forward(self, output: BackboneOutput) -> dict[str, Tensor]:
        regions = self.regions(output.regions, output.pooled)
        scores = {
            "lm_score": self.words(output.text).everywhere(),
            "match_score": self.matching(output.pooled),
            "answer_score": self.answers(output),
            **{SCORES[name]: states.everywhere() for name, states in regions.items()},
        }
        return scores if self.topics is None else {**scores, "topic_score": self.topics(output.pooled)}


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the importers take the tables of the vectors for BERT's; [CLS] is 4 in their vocabulary."""
    monkeypatch.setattr(checkpoint, "BERT_VOCABULARY_SIZE", 200)
    monkeypatch.setattr(checkpoint, "BERT_CLS_ID", 4)


@pytest.fixture
def pretrained(golden_network: Callable[[str], Any], tmp_path: Path) -> Callable[[str], tuple[Any, Path]]:
    """The vectors with their network, and their parameters as the authors save them from several devices."""

    def make(file: str) -> tuple[Any, Path]:
        golden = golden_network(file)
        torch.save(
            {f"module.{name}": tensor for name, tensor in state_of(golden).items()}, tmp_path / "Epoch20_LXRT.pth"
        )
        return golden, tmp_path / "Epoch20_LXRT.pth"

    return make


def state_of(golden: Any) -> dict[str, Tensor]:
    names = (name for name in golden.vectors if name.startswith("state/"))
    return {name.removeprefix("state/"): golden.tensor(name) for name in names}


def fresh(golden: Any) -> tuple[Lxmert, PretrainingHead]:
    """The network of the vectors and its heads, with nothing of theirs left in it."""
    torch.manual_seed(0)
    for parameter in golden.network.parameters():
        nn.init.normal_(parameter)
    return golden.network, PretrainingHead(golden.network, state_of(golden))


def load(backbone: Lxmert, head: PretrainingHead, path: Path) -> LoadReport:
    return load_weights(backbone, path, heads=[HeadSlot(n, h.module, h.adapt) for n, h in head.named().items()])


@both
def test_every_head_gives_what_the_original_gives(pretrained: Any, tmp_path: Path, file: str, format_name: str) -> None:
    golden, source = pretrained(file)
    left = import_weights(source, tmp_path / "out.safetensors", FORMATS[format_name]).left_behind
    backbone, head = fresh(golden)

    report = load(backbone, head, tmp_path / "out.safetensors")

    assert (report.missing, report.unused, report.unexpected) == ((), (), ())
    assert left == (() if format_name == "lxmert" else ("module.bert.word_embeddings.weight (all but a part of it)",))
    assert head.words.decoder.weight is backbone.embeddings.word_embeddings.weight
    encoding = Encoding(
        token_ids=golden.tensor("in/input_ids"),
        text_mask=golden.tensor("in/input_mask").bool(),
        region_features=golden.tensor("in/feats"),
        boxes=golden.tensor("in/boxes"),
        region_mask=torch.ones(golden.tensor("in/boxes").shape[:2], dtype=torch.bool),
        position_ids=golden.tensor("in/token_position") if "in/token_position" in golden.vectors else None,
    )
    with torch.inference_mode():
        outputs = head.eval()(backbone.eval()(encoding))
    expected = {name for name in golden.vectors if name.startswith("out/") and name.endswith("_score")}
    assert {f"out/{name}" for name in outputs} == expected
    for name, output in outputs.items():
        torch.testing.assert_close(output, golden.tensor(f"out/{name}"), rtol=TOLERANCE, atol=TOLERANCE)


@both
@pytest.mark.parametrize("layout", ["theirs", "hf-lxmert"])
def test_the_way_there_and_back_is_equal_to_the_bit(
    pretrained: Any, golden: Path, tmp_path: Path, file: str, format_name: str, layout: str
) -> None:
    if layout == "hf-lxmert" and format_name != "lxmert":
        pytest.skip("transformers has no LXMERT-S")
    layout = format_name if layout == "theirs" else layout
    vectors, source = pretrained(file)
    first, back, folder = tmp_path / "first.safetensors", tmp_path / "back.safetensors", tmp_path / "theirs"
    arguments = ["--num-heads", "4", "--vocabulary", str(golden / "lxmert_s" / "tiny_vocab.txt")]
    assert main(["weights", "import", "--from", format_name, str(source), str(first), *arguments]) == 0

    assert main(["weights", "export", str(first), str(folder), "--to", layout]) == 0
    assert main(["weights", "import", "--from", layout, str(folder / "model.safetensors"), str(back)]) == 0

    (before, facts), (after, facts_after) = read_imported(first), read_imported(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert facts_after["heads"] == facts["heads"]
    assert facts["heads"][REGION_HEAD]["times_pooled"] is (format_name == "lxmert-s")
    theirs, state = load_file(folder / "model.safetensors"), state_of(vectors)
    if layout == format_name:
        assert theirs.keys() == state.keys()
        assert all(torch.equal(theirs[name], state[name]) for name in state if name != "bert.word_embeddings.weight")


def test_the_names_of_hugging_face_are_those_of_the_keymap(pretrained: Any, golden: Path, tmp_path: Path) -> None:
    """But for the decoder of words: it is tied, and stored with the embeddings."""
    keymap = json.loads((golden / "lxmert_s" / "lxmert_hf_keymap.json").read_text())["original_to_LxmertForPreTraining"]
    _, source = pretrained("pretrain_lxmert")
    import_weights(source, tmp_path / "first.safetensors", FORMATS["lxmert"])

    exported, config = FORMATS["hf-lxmert"].export(
        read_imported(tmp_path / "first.safetensors")[0],
        dict.fromkeys(["hidden_size", "num_heads", "feed_forward_size", "max_positions", "region_feature_size"], 1)
        | dict.fromkeys(["num_language_layers", "num_cross_layers", "num_object_layers"], 1),
    )

    assert set(exported) == set(keymap.values()) - {"cls.predictions.decoder.weight"}
    assert (config["num_object_labels"], config["num_attr_labels"], config["num_qa_labels"]) == (13, 7, 17)


def test_transformers_gives_the_same_from_the_export(
    pretrained: Any, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    vectors, source = pretrained("pretrain_lxmert")
    first, folder = tmp_path / "first.safetensors", tmp_path / "hf"
    assert main(["weights", "import", "--from", "lxmert", str(source), str(first), "--num-heads", "4"]) == 0
    assert main(["weights", "export", str(first), str(folder), "--to", "hf-lxmert"]) == 0
    assert "left behind" not in capsys.readouterr().out

    network, report = transformers.LxmertForPreTraining.from_pretrained(folder, output_loading_info=True)

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    given = {"input_ids": "input_ids", "attention_mask": "input_mask", "visual_feats": "feats", "visual_pos": "boxes"}
    with torch.inference_mode():
        output = network.eval()(**{theirs: vectors.tensor(f"in/{ours}") for theirs, ours in given.items()})
        visual = network.obj_predict_head(network.lxmert(**{t: vectors.tensor(f"in/{o}") for t, o in given.items()})[1])
    scores = {
        "lm_score": output.prediction_logits,
        "match_score": output.cross_relationship_score,
        "answer_score": output.question_answering_score,
        "obj_score": visual["obj"],
        "attr_score": visual["attr"],
        "feat_score": visual["feat"],
    }
    for name, score in scores.items():
        torch.testing.assert_close(score, vectors.tensor(f"out/{name}"), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_region_head_of_one_network_is_refused_by_that_of_the_other(pretrained: Any, tmp_path: Path) -> None:
    """The decoders of LXMERT-S read a product."""
    golden, source = pretrained("pretrain_s")
    import_weights(source, tmp_path / "out.safetensors", FORMATS["lxmert-s"])
    backbone, head = fresh(golden)
    head.regions.times_pooled = False

    with pytest.raises(checkpoint.CheckpointError, match="trained on their product with the pooled state"):
        load(backbone, head, tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["lxmert-s", "lxmert"])
def test_bert_brings_its_word_head_and_says_what_stays_random(
    make_network: Callable[..., Lxmert], tmp_path: Path, name: str
) -> None:
    network = make_network(name, **({"num_language_layers": 9} if name == "lxmert" else {}))
    words = WordHead.of(network)
    content = bert_state(make_network("lxmert"), "bert.", old_names=True)
    shapes = {"bias": (20,), "transform.dense.weight": (8, 8), "transform.dense.bias": (8,)}
    norm = {"transform.LayerNorm.gamma": (8,), "transform.LayerNorm.beta": (8,)}
    content |= {f"cls.predictions.{key}": torch.rand(shape) for key, shape in {**shapes, **norm}.items()}
    path = imported(content, tmp_path, FORMATS[f"bert-{name}"])

    report = load_weights(network, path, heads=[HeadSlot(WORD_HEAD, words)])

    assert torch.equal(words.transform.layer_norm.weight, content["cls.predictions.transform.LayerNorm.gamma"])
    assert torch.equal(words.decoder.weight, content["bert.embeddings.word_embeddings.weight"])
    parts = [remark.partition(":")[0] for remark in report.remarks if "start random" in remark]
    expected = ["encoder.visn_fc", "encoder.x_layers"]
    assert parts == [*expected, *(["encoder.r_layers"] if name == "lxmert" else ["pooler_f", "word_embeddings"])]

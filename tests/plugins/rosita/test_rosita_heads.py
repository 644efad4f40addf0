"""The heads of ROSITA's pre-training: there and back under the authors' names, and equal to their outputs.

``golden/rosita/pretrain.npz``; tolerances: the README of the vectors, of 1 + |x|, for word scores reach 20.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlrun import BackboneOutput, CheckpointError, Encoding, NamedHead
from vlrun.blocks.decoders import (
    ANSWER_HEAD,
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    REGION_HEAD,
    WORD_HEAD,
    RegionHead,
    WordHead,
)
from vlrun.blocks.heads import PooledClassifier
from vlrun.cli import main
from vlrun.engine.weight_files import import_weights, read_imported
from vlrun.engine.weights import HeadSlot, LoadReport, load_weights
from vlrun_rosita.model import Rosita
from vlrun_rosita.plugin import vlrun_weight_formats

pytestmark = pytest.mark.golden

ROSITA, BERT = vlrun_weight_formats()
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


class PretrainingHead(nn.Module):
    """All heads of the authors' pre-training, made of the shared blocks."""

    def __init__(self, backbone: Rosita, size: Mapping[str, int]) -> None:
        super().__init__()
        self.matching = backbone.matching_head()
        self.words = WordHead.of(backbone)
        outputs = {FEATURES: size["imgfeat"], CLASSES: size["obj"], ATTRIBUTES: size["attr"]}
        self.regions = RegionHead(backbone.hidden_size, outputs)
        self.answers = PooledClassifier(backbone.hidden_size, size["ans"])

    def named(self) -> dict[str, NamedHead]:
        heads = {WORD_HEAD: self.words.named(), REGION_HEAD: self.regions.named()}
        return {**heads, ANSWER_HEAD: NamedHead(self.answers)}

    def forward(self, output: BackboneOutput) -> dict[str, Tensor]:
        regions = {name: states.everywhere() for name, states in self.regions(output.regions, output.pooled).items()}
        return {
            "pred_mlm": self.words(output.text).everywhere(),
            "pred_feat": regions[FEATURES],
            "pred_obj": regions[CLASSES],
            "pred_attr": regions[ATTRIBUTES],
            "pred_itm": self.matching(output.pooled),
            "pred_qa": self.answers(output),
        }


@pytest.fixture
def vectors(golden: Path) -> dict[str, Any]:
    return dict(np.load(golden / "rosita" / "pretrain.npz"))


@pytest.fixture
def pickled(vectors: dict[str, Any], tmp_path: Path) -> Path:
    """The parameters of the vectors as the authors' pre-training saves them."""
    content: dict[str, Any] = {"epoch": 40, "net_optim": {"state": {}}, "amp": {}}
    for name in (name for name in vectors if name.startswith("state/")):
        module, _, rest = name.removeprefix("state/").partition(".")
        content.setdefault(module, {})[rest] = torch.from_numpy(vectors[name])
    content["text_mlm_head"]["decode.weight"] = content["text_embeddings"]["word_embeddings.weight"]
    torch.save(content, tmp_path / "rosita-base.pkl")
    return tmp_path / "rosita-base.pkl"


@pytest.fixture
def make(vectors: dict[str, Any], make_rosita: Callable[..., Rosita]) -> Callable[[], tuple[Rosita, PretrainingHead]]:
    size = {name.removeprefix("cfg/"): int(vectors[name]) for name in vectors if name.startswith("cfg/")}

    def network() -> tuple[Rosita, PretrainingHead]:
        backbone = make_rosita(
            size["vocab"],
            hidden_size=size["hsize"],
            num_layers=size["layers"],
            num_heads=size["heads"],
            feed_forward_size=size["hff"],
            max_positions=size["pos"],
            region_feature_size=size["imgfeat"],
            num_regions=size["regions"],
            dropout=0.0,
        )
        return backbone, PretrainingHead(backbone, size)

    return network


def load(backbone: Rosita, head: PretrainingHead, path: Path) -> LoadReport:
    return load_weights(backbone, path, heads=[HeadSlot(n, h.module, h.adapt) for n, h in head.named().items()])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["double", "single"])
def test_every_head_gives_what_the_original_gives(
    vectors: dict[str, Any], pickled: Path, make: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    import_weights(pickled, tmp_path / "rosita.safetensors", ROSITA)
    backbone, head = make()

    report = load(backbone, head, tmp_path / "rosita.safetensors")

    assert (report.missing, report.unused, report.unexpected) == ((), (), ())
    assert len(report.matched) == sum(name.startswith("state/") for name in vectors)
    assert head.words.decoder.weight is backbone.text_embeddings.word_embeddings.weight
    given = {
        name: torch.from_numpy(vectors[f"in/{name}"])
        for name in ("text_ids", "text_mask", "imgfeat", "bbox", "imgfeat_mask")
    }
    encoding = Encoding(
        given["text_ids"],
        given["text_mask"].bool(),
        given["imgfeat"].to(dtype),
        given["bbox"].to(dtype),
        given["imgfeat_mask"].bool(),
    )
    with torch.inference_mode():
        outputs = head.to(dtype).eval()(backbone.to(dtype).eval()(encoding))
    theirs = {name: torch.from_numpy(vectors[f"out/{name}"]) for name in outputs}
    differences = {
        name: float(((output - theirs[name]).abs() / (1 + theirs[name].abs())).max())
        for name, output in outputs.items()
    }
    assert max(differences.values()) <= TOLERANCE[dtype], differences


def test_the_way_there_and_back_is_equal_to_the_bit(
    pickled: Path, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, _ = make()
    vocabulary = next(tmp_path.glob("vocabulary_*.txt"))
    first, back, folder = tmp_path / "first.safetensors", tmp_path / "back.safetensors", tmp_path / "theirs"
    arguments = ["--vocabulary", str(vocabulary), "--num-heads", "4"]
    assert main(["weights", "import", "--from", "rosita", str(pickled), str(first), *arguments]) == 0
    capsys.readouterr()

    assert main(["weights", "export", str(first), str(folder), "--to", "rosita"]) == 0
    assert "left behind" not in capsys.readouterr().out
    assert main(["weights", "import", "--from", "rosita", str(folder / "model.safetensors"), str(back)]) == 0

    (before, facts), (after, facts_after) = read_imported(first), read_imported(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert facts_after["heads"] == facts["heads"]
    assert facts["heads"][WORD_HEAD] == {"words": 200, "vocabulary": backbone.vocabulary_hash}
    theirs, content = load_file(folder / "model.safetensors"), torch.load(pickled)
    named = {
        f"{m}.{n}": t for m, part in content.items() if m in {k.split(".")[0] for k in theirs} for n, t in part.items()
    }
    assert theirs.keys() == named.keys()
    assert all(torch.equal(tensor, named[name]) for name, tensor in theirs.items())


def test_an_inspection_lists_the_heads(pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_weights(pickled, tmp_path / "rosita.safetensors", ROSITA)
    for path in (pickled, tmp_path / "rosita.safetensors"):
        assert main(["weights", "inspect", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        heads = {line.split(":")[0]: line for line in lines if line.startswith("head ")}
        assert heads.keys() == {"head word_head", "head region_head", "head answer_head"}
        assert "200 words; tied to the word embeddings; " in heads["head word_head"]
        assert "16 features; 9 classes; 7 attributes; " in heads["head region_head"]
        assert "decoders.classes.weight 9x32" in heads["head region_head"]


def bert_base(content: dict[str, Any]) -> dict[str, Any]:
    """The authors' bert-base.pkl, made of another file of theirs."""
    names = ("text_embeddings", "backbone", "pooler", "text_mlm_head", "mm_itm_head")
    return {name: content[name] for name in names}


def of_hugging_face(content: dict[str, Any]) -> dict[str, Tensor]:
    """The same under the names of ``BertForPreTraining``."""
    renamed = {
        "text_embeddings.layer_norm": "bert.embeddings.LayerNorm",
        "text_embeddings": "bert.embeddings",
        "mhatt.dense_q": "attention.self.query",
        "mhatt.dense_k": "attention.self.key",
        "mhatt.dense_v": "attention.self.value",
        "mhatt.dense_merge": "attention.output.dense",
        "layer_norm0": "attention.output.LayerNorm",
        "layer_norm1": "output.LayerNorm",
        "ffn.dense0": "intermediate.dense",
        "ffn.dense1": "output.dense",
        "backbone.layers": "bert.encoder.layer",
        "pooler": "bert.pooler",
        "text_mlm_head.decode": "cls.predictions.decoder",
        "text_mlm_head.dense": "cls.predictions.transform.dense",
        "text_mlm_head.layer_norm": "cls.predictions.transform.LayerNorm",
        "text_mlm_head": "cls.predictions",
        "mm_itm_head.dense": "cls.seq_relationship",
    }
    named = {f"{module}.{name}": tensor for module, part in content.items() for name, tensor in part.items()}
    for ours, theirs in renamed.items():
        named = {name.replace(ours, theirs): tensor for name, tensor in named.items()}
    return {**named, "bert.embeddings.position_ids": torch.arange(16)}


@pytest.mark.parametrize("layout", [bert_base, lambda content: of_hugging_face(bert_base(content))], ids=["pkl", "hf"])
def test_bert_is_a_start_that_says_what_stays_random(pickled: Path, make: Any, tmp_path: Path, layout: Any) -> None:
    theirs = torch.load(pickled)
    torch.save(layout(theirs), tmp_path / "bert.bin")
    (backbone, head), out = make(), tmp_path / "bert.safetensors"
    visual = {name: value.clone() for name, value in backbone.visual_embeddings.state_dict().items()}

    remarks = import_weights(tmp_path / "bert.bin", out, BERT).remarks
    report = load(backbone, head, out)

    assert remarks == ("a start: visual_embeddings will be random in every run that loads it",)

    assert {name.split(".")[0] for name in report.missing} == {"visual_embeddings", "region_head", "answer_head"}
    state = {**backbone.state_dict(), **{f"word_head.{n}": t for n, t in head.words.state_dict().items()}}
    assert torch.equal(
        state["backbone.layers.1.mhatt.dense_merge.bias"], theirs["backbone"]["layers.1.mhatt.dense_merge.bias"]
    )
    assert torch.equal(state["mm_itm_head.dense.weight"], theirs["mm_itm_head"]["dense.weight"])
    assert torch.equal(state["word_head.transform.layer_norm.bias"], theirs["text_mlm_head"]["layer_norm.bias"])
    assert all(torch.equal(value, visual[name]) for name, value in backbone.visual_embeddings.state_dict().items())
    assert report.remarks == (
        "visual_embeddings: 6 tensors start random, as they do from every file of format 'bert-rosita'",
        "word_head: taken, 5 tensors",
        "region_head: not in the file; it starts from random weights",
        "answer_head: not in the file; it starts from random weights",
    )


def test_a_start_without_a_part_that_bert_has_stops(pickled: Path, make: Any, tmp_path: Path) -> None:
    content = bert_base(torch.load(pickled))
    del content["pooler"]
    torch.save(content, tmp_path / "bert.pkl")
    import_weights(tmp_path / "bert.pkl", tmp_path / "bert.safetensors", BERT)

    with pytest.raises(CheckpointError, match="2 tensors are missing that a file of format 'bert-rosita' has: 'pooler"):
        load(*make(), tmp_path / "bert.safetensors")


def test_a_file_of_another_kind_is_no_start_from_bert(pickled: Path) -> None:
    whole = torch.load(pickled)
    with pytest.raises(CheckpointError, match="it has visual_embeddings; import it with --from rosita"):
        BERT.translate(whole)
    lxmert = {**of_hugging_face(bert_base(whole)), "bert.encoder.x_layers.0.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"not BERT alone: it has 'bert\.encoder\.x_layers\.0\.weight'"):
        BERT.translate(lxmert)


def test_a_decoder_that_is_not_tied_is_said_and_kept(pickled: Path, tmp_path: Path) -> None:
    content = torch.load(pickled)
    content["text_mlm_head"]["decode.weight"] = content["text_mlm_head"]["decode.weight"] + 0.5
    torch.save(content, tmp_path / "odd.pkl")

    assert "its decoder is not the word embeddings of the file" in " ".join(
        import_weights(tmp_path / "odd.pkl", tmp_path / "odd.safetensors", ROSITA).remarks
    )
    assert "word_head.decoder.weight" in read_imported(tmp_path / "odd.safetensors")[0]


def test_text_alone_gives_what_bert_gives(make_rosita: Callable[..., Rosita], tmp_path: Path) -> None:
    """From a folder of transformers: embeddings, layers, pooler, word head and the head of next sentences."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=12, **sizes)
    bert = transformers.BertForPreTraining(config).eval()
    for parameter in bert.parameters():
        nn.init.normal_(parameter, std=0.5)
    bert.save_pretrained(tmp_path / "bert")
    rosita = make_rosita(20).eval()
    words = WordHead.of(rosita)
    out = tmp_path / "bert.safetensors"

    assert main(["weights", "import", "--from", "bert-rosita", str(tmp_path / "bert"), str(out)]) == 0
    load_weights(rosita, out, heads=[HeadSlot(WORD_HEAD, words)])

    token_ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.inference_mode():
        expected = bert(input_ids=token_ids)
        hidden = rosita.backbone(rosita.text_embeddings(token_ids), None)
        torch.testing.assert_close(words(hidden).everywhere(), expected.prediction_logits, rtol=1e-5, atol=1e-5)
        pooled = rosita.matching_head()(rosita.pooler(hidden))
    torch.testing.assert_close(pooled, expected.seq_relationship_logits, rtol=1e-5, atol=1e-5)

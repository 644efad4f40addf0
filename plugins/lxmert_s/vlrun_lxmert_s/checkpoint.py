"""The weights of others: the authors' files, Hugging Face's, and BERT's. Names lose prefixes; few change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlrun import CheckpointError, first_few
from vlrun.blocks.decoders import renamed, without_tied_decoder

BERT_VOCABULARY_SIZE = 30522
BERT_CLS_ID = 101
BERT_LANGUAGE_LAYERS = 9

TRUNK = ("embeddings.", "encoder.", "pooler.", "pooler_f.", "word_embeddings.")
VISUAL_CLS_TABLE = "word_embeddings.weight"
SECOND_POOLER = "pooler_f.dense.weight"
MATCHING_HEAD = "seq_relationship"
ANSWER_HEAD, NLVR2_HEAD = CLASSIFIERS = ("answer_head", "nlvr2_head")
"""Heads of tasks: a file has at most one of them, and a run of another task has no use for it."""
HEAD_LAYERS = {"0": "dense0", "2": "layer_norm", "3": "dense1"}
"""Index in the authors' ``nn.Sequential`` -> our name; 1 is the GELU."""

WORD_TABLE = "embeddings.word_embeddings.weight"
WORD_LAYERS = (
    ("cls.predictions.transform.dense.", "word_head.transform.dense."),
    ("cls.predictions.transform.LayerNorm.", "word_head.transform.layer_norm."),
    ("cls.predictions.decoder.weight", "word_head.decoder.weight"),
    ("cls.predictions.bias", "word_head.bias"),
    ("cls.predictions.decoder.bias", "word_head.bias"),  # the same, in newer files of transformers
)
PRETRAINING_LAYERS = (
    *WORD_LAYERS,
    ("obj_predict_head.transform.dense.", "region_head.transform.dense."),
    ("obj_predict_head.transform.LayerNorm.", "region_head.transform.layer_norm."),
    ("obj_predict_head.decoder_dict.feat.", "region_head.decoders.features."),
    ("obj_predict_head.decoder_dict.obj.", "region_head.decoders.classes."),
    ("obj_predict_head.decoder_dict.attr.", "region_head.decoders.attributes."),
    ("cls.seq_relationship_new.", "topic_head.dense."),
    ("cls.LayerNorm.", "topic_head.layer_norm."),
)
"""How the names of layers in the heads of pre-training begin in their files, and Hugging Face's -> and in ours."""

_CLASSIFIER = re.compile(r"(?:answer_head\.)?logit_fc\.([023])\.(weight|bias)")
_MATCHING = re.compile(r"(?:cls\.seq_relationship|seq_relationship_new)\.(weight|bias)")
_WRAPPER = re.compile(r"^lxrt_encoder\.model\.")

_KINDS = {
    "lxmert-s": "a file of LXMERT-S from its authors' code",
    "lxmert": "a file of LXMERT from its authors' code",
    "hf-lxmert": "a file of LXMERT from Hugging Face transformers",
    "bert": "a file of BERT",
}


def translate_lxmert_s(content: Mapping[str, Any], cls_id: int | None = None) -> dict[str, Tensor]:
    """The authors' LXMERT-S: ``bert.pooler_f.dense.bias`` becomes ``pooler_f.dense.bias``.

    Of the visual [CLS] table only the row of [CLS] comes over, for no other is ever read.

    Args:
        content: state dict of the pre-training network or of a fine-tuned one, with ``module.`` anywhere in names.
        cls_id: id of [CLS] in the vocabulary of the file; None takes the one of bert-base-uncased.

    Raises:
        CheckpointError: this is no such file, or its vocabulary is another one and ``cls_id`` is not given.
    """
    tensors = _tensors_of_kind("lxmert-s", content)
    translated = _translated(tensors, "bert.")
    translated[VISUAL_CLS_TABLE] = _row_of_cls(translated[VISUAL_CLS_TABLE], cls_id)
    return translated


def translate_lxmert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The authors' LXMERT: ``bert.pooler.dense.bias`` becomes ``pooler.dense.bias``.

    Raises:
        CheckpointError: this is no such file.
    """
    return _translated(_tensors_of_kind("lxmert", content), "bert.")


def translate_hf_lxmert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``LxmertModel``, whose names are ours; or ``LxmertForPreTraining`` and others, with ``lxmert.`` before them.

    Raises:
        CheckpointError: this is no such file.
    """
    tensors = _tensors_of_kind("hf-lxmert", content)
    prefix = "lxmert." if any(name.startswith("lxmert.") for name in tensors) else ""
    return _translated(tensors, prefix)


def translate_bert(content: Mapping[str, Any], num_layers: int = 0) -> dict[str, Tensor]:
    """What the originals take from bert-base-uncased: embeddings, pooler, the first ``num_layers`` layers, word head.

    Old files say ``gamma`` and ``beta`` for weight and bias of a norm; ``bert.`` may stand before the names or not. The
    head of next sentences, which the originals take for matching in pre-training, stays behind: the matching head would
    seem to be trained.

    Raises:
        CheckpointError: this is no file of BERT, or it has fewer layers.
    """
    tensors = _tensors_of_kind("bert", content)
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    wanted = ("embeddings.", "pooler.dense.", *(f"encoder.layer.{index}." for index in range(num_layers)))
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    found = {_new_norm_name(name): tensor for name, tensor in named.items()}
    lacking = [part for part in wanted if not any(name.startswith(part) for name in found)]
    if lacking:
        raise CheckpointError(f"a file of BERT, but without {', '.join(f'{prefix}{part}*' for part in lacking)}")
    trunk = {name: tensor for name, tensor in found.items() if name.startswith(wanted)}
    new_names = {_new_norm_name(name): tensor for name, tensor in tensors.items()}
    words = {ours: tensor for name, tensor in new_names.items() if (ours := renamed(name, WORD_LAYERS))}
    return without_tied_decoder({**trunk, **words}, WORD_TABLE)


def translate_bert_for_lxmert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """What LXMERT takes from bert-base-uncased: also the layers that its language encoder starts from."""
    return translate_bert(content, num_layers=BERT_LANGUAGE_LAYERS)


def export_lxmert(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The names of the authors' pre-training network, with the decoder of the word head that is tied.

    NLVR2's head and others that this network does not have stay behind; ``options`` go along as configuration.
    """
    return _authors_names(tensors), {"backbone": "lxmert", **options}


def export_lxmert_s(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same for LXMERT-S. Its visual [CLS] table has the one row that we keep for every token."""
    exported = _authors_names(tensors)
    table = f"bert.{VISUAL_CLS_TABLE}"
    exported[table] = exported[table].expand(len(tensors[WORD_TABLE]), -1)
    return exported, {"backbone": "lxmert-s", **options}


def heads_in_their_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads of pre-training and the answer head, under the names that the authors and Hugging Face give them."""
    theirs = [
        *((ours, theirs) for theirs, ours in PRETRAINING_LAYERS),
        *((f"{ANSWER_HEAD}.{ours}.", f"{ANSWER_HEAD}.logit_fc.{index}.") for index, ours in HEAD_LAYERS.items()),
        (f"{MATCHING_HEAD}.", f"cls.{MATCHING_HEAD}."),
    ]
    return {new: tensor for name, tensor in tensors.items() if (new := renamed(name, theirs))}


def _authors_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    trunk = {f"bert.{name}": tensor for name, tensor in tensors.items() if name.startswith(TRUNK)}
    exported = {**trunk, **heads_in_their_names(tensors)}
    if "cls.predictions.bias" in exported and "cls.predictions.decoder.weight" not in exported:
        exported["cls.predictions.decoder.weight"] = tensors[WORD_TABLE].clone()
    return exported


def _translated(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Backbone and heads; the decoder of the word head only where it is not the word embeddings."""
    return without_tied_decoder({**_trunk(tensors, prefix), **_heads(tensors)}, WORD_TABLE)


def _tensors_of_kind(wanted: str, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The file's floating-point tensors, without the names of wrappers around the network.

    Raises:
        CheckpointError: the file is of another kind.
    """
    tensors = {
        _without_wrappers(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    kind = _kind_of(tensors)
    if kind == wanted:
        return tensors
    if kind is None:
        first = ", ".join(first_few(list(map(str, content)), 5)) or "nothing"
        raise CheckpointError(f"not {_KINDS[wanted]}, nor of any kind known here; it begins with {first}")
    hint = "bert-lxmert-s or bert-lxmert" if kind == "bert" else kind
    raise CheckpointError(f"not {_KINDS[wanted]} but {_KINDS[kind]}; import it with --from {hint}")


def _kind_of(tensors: Mapping[str, Tensor]) -> str | None:
    if _has(tensors, "bert.encoder.x_layers."):
        is_simplified = f"bert.{SECOND_POOLER}" in tensors and f"bert.{VISUAL_CLS_TABLE}" in tensors
        return "lxmert-s" if is_simplified else "lxmert"
    if _has(tensors, "lxmert.encoder.x_layers.") or _has(tensors, "encoder.x_layers."):
        return "hf-lxmert"
    if _has(tensors, "bert.embeddings.") or _has(tensors, "embeddings."):
        return "bert"
    return None


def _has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _without_wrappers(name: str) -> str:
    """Networks trained on several devices have ``module.`` in their names, the tasks' ``lxrt_encoder.model.``."""
    return _WRAPPER.sub("", ".".join(part for part in str(name).split(".") if part != "module"))


def _trunk(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands behind ``prefix``, which only the backbone's tensors have.

    Raises:
        CheckpointError: there is more behind it than a backbone has.
    """
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    unknown = [f"'{prefix}{name}'" for name in named if not name.startswith(TRUNK)]
    if unknown:
        more = f" and {len(unknown) - 3:,} more" if len(unknown) > 3 else ""
        raise CheckpointError(
            f"{len(unknown):,} tensors of the backbone have no place in ours: {', '.join(unknown[:3])}{more}. "
            "Was the network changed? Then a backbone of its own has to read it"
        )
    return named


def _heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads of pre-training; the answer head, or NLVR2's, which reads two images; the matching head, of two rows.

    The topic head of LXMERT-S is named like the matching head of its retrieval network; its place and size differ.
    """
    classifier, matching, others = {}, {}, {}
    for name, tensor in tensors.items():
        if layer := _CLASSIFIER.fullmatch(name):
            classifier[f"{HEAD_LAYERS[layer[1]]}.{layer[2]}"] = tensor
        elif (layer := _MATCHING.fullmatch(name)) and len(tensor) == 2:
            matching[f"{MATCHING_HEAD}.{layer[1]}"] = tensor
        elif ours := renamed(name, PRETRAINING_LAYERS):
            others[ours] = tensor
    first = classifier.get("dense0.weight")  # its outputs are twice the hidden size, its inputs that of each image
    head = NLVR2_HEAD if first is not None and first.shape[0] == first.shape[1] else ANSWER_HEAD
    return {**{f"{head}.{name}": tensor for name, tensor in classifier.items()}, **matching, **others}


def _row_of_cls(table: Tensor, cls_id: int | None) -> Tensor:
    if cls_id is None and len(table) != BERT_VOCABULARY_SIZE:
        raise CheckpointError(
            f"the visual [CLS] table has {len(table):,} rows, not the {BERT_VOCABULARY_SIZE:,} of bert-base-uncased: "
            "which of them belongs to [CLS] is unknown"
        )
    row = BERT_CLS_ID if cls_id is None else cls_id
    return table[row : row + 1]


def _new_norm_name(name: str) -> str:
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))

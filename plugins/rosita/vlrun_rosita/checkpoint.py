"""The authors' checkpoint layout, a dict of sub-module state dicts with local names; and BERT as a start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlrun import CheckpointError, first_few
from vlrun.blocks.decoders import renamed, without_tied_decoder

TRUNK = ("text_embeddings", "visual_embeddings", "backbone", "pooler")
MATCHING_HEAD = "mm_itm_head"
HEADS = {
    MATCHING_HEAD: MATCHING_HEAD,
    "mm_qa_head": "answer_head",
    "mm_refs_head": "grounding_head",
    "text_mlm_head": "word_head",
    "imgfeat_head": "region_head",
}
"""Their name -> ours. The heads of tasks have neutral names, under which the tasks find them."""

OLD_HEADS = ("text_mlm_head", "imgfeat_head")
"""Names of heads in files that were imported by version 0.3.0 and before: no task takes them from there."""

WORD_TABLE = "text_embeddings.word_embeddings.weight"
VISUAL = "visual_embeddings"
"""What a start from BERT does not have."""

LAYERS = (
    ("text_mlm_head.dense.", "word_head.transform.dense."),
    ("text_mlm_head.layer_norm.", "word_head.transform.layer_norm."),
    ("text_mlm_head.decode.", "word_head.decoder."),
    ("text_mlm_head.", "word_head."),
    ("imgfeat_head.dense.", "region_head.transform.dense."),
    ("imgfeat_head.layer_norm.", "region_head.transform.layer_norm."),
    ("imgfeat_head.dense_feat.", "region_head.decoders.features."),
    ("imgfeat_head.dense_obj.", "region_head.decoders.classes."),
    ("imgfeat_head.dense_attr.", "region_head.decoders.attributes."),
    ("imgfeat_head.", "region_head."),
    ("mm_qa_head.", "answer_head."),
    ("mm_refs_head.", "grounding_head."),
)
"""How the names of layers in their heads begin -> and in ours; all other names are the same."""

OF_BERT = (
    ("bert.embeddings.LayerNorm.", "text_embeddings.layer_norm."),
    ("bert.embeddings.", "text_embeddings."),
    ("bert.pooler.", "pooler."),
    ("cls.predictions.transform.dense.", "word_head.transform.dense."),
    ("cls.predictions.transform.LayerNorm.", "word_head.transform.layer_norm."),
    ("cls.predictions.decoder.weight", "word_head.decoder.weight"),
    ("cls.predictions.bias", "word_head.bias"),
    ("cls.predictions.decoder.bias", "word_head.bias"),
    ("cls.seq_relationship.", f"{MATCHING_HEAD}.dense."),
)
LAYERS_OF_BERT = (
    ("attention.self.query.", "mhatt.dense_q."),
    ("attention.self.key.", "mhatt.dense_k."),
    ("attention.self.value.", "mhatt.dense_v."),
    ("attention.output.dense.", "mhatt.dense_merge."),
    ("attention.output.LayerNorm.", "layer_norm0."),
    ("intermediate.dense.", "ffn.dense0."),
    ("output.dense.", "ffn.dense1."),
    ("output.LayerNorm.", "layer_norm1."),
)
_LAYER_OF_BERT = re.compile(r"bert\.encoder\.layer\.(\d+)\.(.+)")


def translate(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """``content['backbone']['layers.0.mhatt.dense_v.weight']`` becomes ``backbone.layers.0.mhatt.dense_v.weight``.

    That is all: our names are the authors' full names, but for heads of tasks (``mm_qa_head`` becomes ``answer_head``).
    The trunk and the known heads come over; the optimiser's state, counters and anything unknown stay behind (the
    caller reports what did). So does the decoder of the word head where it is the tied copy of the word embeddings.
    Full names without the dict around them, as our export writes them, are read as well.

    Raises:
        CheckpointError: this is no file of that layout.
    """
    modules = _nested(content)
    found = [name for name in (*TRUNK, *HEADS) if name in modules]
    if not any(name in TRUNK for name in found):
        keys = ", ".join(first_few(list(map(str, content)), 5)) or "none"
        raise CheckpointError(f"not a ROSITA checkpoint: expected the keys {', '.join(TRUNK)}; found {keys}")
    tensors = {}
    for module in found:
        if not _is_state_dict(modules[module]):
            raise CheckpointError(f"not a ROSITA checkpoint: '{module}' holds no tensors by name")
        names = {f"{module}.{name}": tensor for name, tensor in modules[module].items()}
        tensors.update({renamed(name, LAYERS) or name: tensor for name, tensor in names.items()})
    return without_tied_decoder(tensors, WORD_TABLE)


def export_rosita(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The authors' names, with the decoder of the word head that is tied; ``options`` go along as configuration.

    What no network of theirs has, such as NLVR2's head, stays behind.
    """
    theirs = [(after, before) for before, after in LAYERS]
    full = {renamed(name, theirs) or name: tensor for name, tensor in tensors.items()}
    exported = {name: tensor for name, tensor in full.items() if name.split(".")[0] in (*TRUNK, *HEADS)}
    if "text_mlm_head.bias" in exported and "text_mlm_head.decode.weight" not in exported:
        exported["text_mlm_head.decode.weight"] = exported[WORD_TABLE].clone()
    return exported, {"backbone": "rosita", **options}


def translate_bert(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """BERT as ROSITA's pre-training starts from it: text embeddings, layers, pooler, word head and matching head.

    Either the authors' ``bert-base.pkl``, which is their layout without visual embeddings, or ``bert-base-uncased`` of
    Hugging Face. The matching head is BERT's of next sentences in both cases, as far as the file has one; old files say
    ``gamma`` and ``beta`` for weight and bias of a norm.

    Raises:
        CheckpointError: this is no such file, or one of ROSITA itself.
    """
    tensors = {
        name: value for name, value in content.items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not any(name.startswith(("bert.encoder.layer.", "encoder.layer.")) for name in tensors):
        start = translate(content)
        if any(name.startswith(f"{VISUAL}.") for name in start):
            raise CheckpointError(f"not BERT alone: it has {VISUAL}; import it with --from rosita")
        return start
    translated, unknown = {}, []
    for name, tensor in tensors.items():
        full = name if name.startswith(("bert.", "cls.")) else f"bert.{name}"
        ours = _of_bert(re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", full)))
        if ours is not None:
            translated[ours] = tensor
        elif full.startswith("bert."):
            unknown.append(f"'{name}'")
    if unknown:
        raise CheckpointError(f"not BERT alone: it has {', '.join(first_few(unknown, 3))}")
    return without_tied_decoder(translated, WORD_TABLE)


def _of_bert(name: str) -> str | None:
    """Our name of a tensor of BERT; None for what ROSITA does not have."""
    if layer := _LAYER_OF_BERT.fullmatch(name):
        rest = renamed(layer[2], LAYERS_OF_BERT)
        return None if rest is None else f"backbone.layers.{layer[1]}.{rest}"
    return renamed(name, OF_BERT)


def _nested(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content by module; full names are cut after the module's."""
    nested: dict[str, Any] = {}
    for name, value in content.items():
        module, _, rest = str(name).partition(".")
        if rest and isinstance(value, Tensor) and module in (*TRUNK, *HEADS):
            nested.setdefault(module, {})[rest] = value
        else:
            nested[str(name)] = value
    return nested


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values())

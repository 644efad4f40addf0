"""Imported weights in a layout that others read: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from vlrun.blocks.tokenizer import read_tokenizer
from vlrun.blocks.wordpiece import WordPiece, read_vocabulary
from vlrun.engine.weight_files import ORIGIN_KEY, left_behind, read_imported
from vlrun.engine.weight_hash import CONTENT_KEY, content_hash
from vlrun.errors import CheckpointError, PluginError, UsageError
from vlrun.files import write_bytes, write_json, write_text
from vlrun.plugins.manager import Plugins

PLAIN = "plain"
"""The layout that every backbone has: its own names, and its options as configuration."""

_NOT_CARRIED = ("options", "forward_check")
"""Facts about the file as it was: the configuration says the first, and an import makes the other anew."""


@dataclass(frozen=True)
class LayoutReport:
    """What an export to another layout wrote.

    Attributes:
        files: of the folder.
        parameters: number of values.
        left_behind: parts of our file that the layout has no place for.
    """

    files: tuple[Path, ...]
    parameters: int
    left_behind: tuple[str, ...]


def layouts_for(backbone: str, plugins: Plugins) -> list[str]:
    """Names of the layouts that weights of this backbone can be written in."""
    ours = [name for name, f in plugins.weight_formats().items() if f.exporter and f.backbone == backbone]
    return [PLAIN, *ours]


def export_layout(
    path: Path, folder: Path, layout: str, plugins: Plugins, *, vocabulary: Path | None = None
) -> LayoutReport:
    """Writes the imported weights at ``path`` into ``folder``, in another layout.

    Args:
        layout: ``plain``, or the name of a weight format with an exporter.
        vocabulary: goes along, word pieces as ``vocab.txt`` and others as ``tokenizer.json``.

    Raises:
        UsageError: ``folder`` holds files already, or the backbone has no such layout.
        CheckpointError: the weights are no imported ones, or not whole; or were made for another vocabulary.
    """
    tensors, metadata = read_imported(path)
    if "backbone" not in metadata:
        raise CheckpointError(f"{path}: not imported weights; import them first: runner weights import")
    if metadata.get("partial"):
        raise CheckpointError(f"{path}: fills only a part of '{metadata['backbone']}', which is no network to export")
    known = layouts_for(metadata["backbone"], plugins)
    if layout not in known:
        raise UsageError(
            f"weights of '{metadata['backbone']}' have no layout '{layout}' (they have: {', '.join(known)})"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; name a new folder")
    beside = _tokenizer_files(vocabulary, metadata)
    options = _options(path, tensors, metadata, plugins)
    if layout == PLAIN:
        exported, config = tensors, {"backbone": metadata["backbone"], **options}
    else:
        exported, config = plugins.weight_formats()[layout].export(tensors, options)
    origin = {key: value for key, value in metadata.items() if key not in _NOT_CARRIED and value}
    origin[CONTENT_KEY] = content_hash(exported, origin)
    files = [folder / "model.safetensors", folder / "config.json"]
    own = {name: tensor.contiguous() for name, tensor in exported.items()}
    write_bytes(files[0], save(own, {"format": "pt", ORIGIN_KEY: json.dumps(origin)}))
    write_json(files[1], config)
    for name, text in beside.items():
        files.append(folder / name)
        write_text(files[-1], text)
    parameters = sum(tensor.numel() for tensor in exported.values())
    return LayoutReport(tuple(files), parameters, left_behind(tensors, exported))


def _tokenizer_files(vocabulary: Path | None, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Name and text of the files that say what the token ids mean."""
    if vocabulary is None:
        return {}
    tokenizer, trained_with = read_tokenizer(vocabulary), metadata.get("vocabulary_hash")
    if trained_with and trained_with != tokenizer.hash:
        given = tokenizer.hash
        raise CheckpointError(f"{vocabulary} is vocabulary {given}; the weights were trained with {trained_with}")
    settings: dict[str, Any]
    if isinstance(tokenizer, WordPiece):
        tokens = read_vocabulary(vocabulary, cased=tokenizer.cased)
        name, text, settings = (
            "vocab.txt",
            "".join(f"{token}\n" for token in tokens),
            {"do_lower_case": not tokenizer.cased},
        )
    else:
        name, text, settings = "tokenizer.json", vocabulary.read_text(encoding="utf-8"), tokenizer.settings()
    return {name: text, "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}


def _options(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], plugins: Plugins
) -> dict[str, Any]:
    """What was recorded at the import; for files of earlier versions, what the tensors say."""
    if "options" in metadata:
        return dict(metadata["options"])
    try:
        config = plugins.find("backbone", metadata["backbone"]).load_config()
    except PluginError as error:
        raise CheckpointError([f"{path}: made for a backbone that is not here", *error.problems]) from error
    options = config.options_of_weights({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if options is None:
        raise CheckpointError(
            f"{path}: does not fill '{metadata['backbone']}', or its heads are unknown; import it with --num-heads"
        )
    return dict(options)

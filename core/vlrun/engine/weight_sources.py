"""Where weights come from: a file, a folder for ``from_pretrained``, parts with an index, a repository of the hub.

Only finding is done here; ``vlrun.engine.weight_files`` reads what was found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlrun.errors import CheckpointError, UsageError
from vlrun.files import read_object_or_empty
from vlrun.foreign.json import parse_json
from vlrun.foreign.yaml import parse_mapping

HUB = "hf:"
"""What the name of a repository begins with, as in ``hf:owner/name`` or ``hf:owner/name@revision``."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of weights in a folder; the first that is there is taken, and those without pickle come first."""

VOCABULARIES = ("vocab.txt", "tokenizer.json")
_INDEX = ".index.json"
_CONFIG, _CARD = "config.json", "README.md"
_PART = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<of>\d{5})(?P<suffix>\.\w+)")
_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

Fetch = Callable[[str], Path | None]
"""The local path of a file of a folder or repository, by name; None if it has none such."""


@dataclass(frozen=True)
class WeightSource:
    """Files of weights that belong together, and what lies beside them.

    Attributes:
        label: what they are called in records: a file name, or a repository with its commit.
        files: one, or the parts that an index names.
        tensors: names that the index promises; empty without one.
        config: ``config.json`` of transformers; empty if there is none.
        vocabulary: the tokeniser's file beside the weights.
        licence: what a model card says of it.
    """

    label: str
    files: tuple[Path, ...]
    tensors: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    vocabulary: Path | None = None
    licence: str = ""


def find_source(name: str | Path) -> WeightSource:
    """Finds the weights that a user names; those of the hub are downloaded, or taken from its cache.

    Raises:
        UsageError: a name of the hub is misspelt, or its library is not installed.
        CheckpointError: there are no weights; one part of several is named; or the hub cannot be reached.
    """
    if str(name).startswith(HUB):
        return _of_hub(str(name))
    path = Path(name)
    if path.is_dir():
        fetch = _folder(path)
        weights = _first(fetch, WEIGHTS)
        if weights is None:
            raise CheckpointError(f"{path}: a folder without {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}; name a file")
        return _with_what_is_beside(f"{path.resolve().name}/{weights.name}", weights, fetch)
    if part := _PART.fullmatch(path.name):
        index = f"{part['name']}{part['suffix']}{_INDEX}"
        raise CheckpointError(
            f"{path}: one part of {int(part['of'])}, which is not the whole network; name the folder, or its {index}"
        )
    return _with_what_is_beside(path.name, path, _folder(path.parent))


def _with_what_is_beside(label: str, weights: Path, fetch: Fetch) -> WeightSource:
    """The source of this file or index. What lies beside it counts only if it is a folder of transformers."""
    files, tensors = _parts(weights, fetch) if weights.name.endswith(_INDEX) else ((weights,), frozenset())
    config_file = fetch(_CONFIG)
    config = {} if config_file is None else read_object_or_empty(config_file)
    if "model_type" not in config:
        return WeightSource(label, files, tensors)
    fetch("tokenizer_config.json")  # beside the vocabulary it says whether case is kept
    return WeightSource(label, files, tensors, config, _first(fetch, VOCABULARIES), _licence(fetch(_CARD)))


def _folder(folder: Path) -> Fetch:
    def fetch(name: str) -> Path | None:
        return folder / name if os.path.isfile(folder / name) else None  # not Path's: a name may be too long for it

    return fetch


def _first(fetch: Fetch, names: tuple[str, ...]) -> Path | None:
    return next((path for name in names if (path := fetch(name)) is not None), None)


def _parts(index: Path, fetch: Fetch) -> tuple[tuple[Path, ...], frozenset[str]]:
    """The files that an index names, and the tensors that are in them.

    Raises:
        CheckpointError: the index is damaged, or a file is missing.
    """
    try:
        places = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        names = list(dict.fromkeys(places.values()))
        if not names or not all(Path(name).name == name for name in names):
            raise ValueError("weight_map")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not an index of weights: it has no 'weight_map' of tensors to files"
        ) from error
    found = {name: fetch(name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        raise CheckpointError(f"{index}: {len(missing)} of {len(names)} parts are not there: {', '.join(missing)}")
    return tuple(path for path in found.values() if path is not None), frozenset(places)


def _licence(card: Path | None) -> str:
    """The licence in the head of a model card."""
    try:
        head = card.read_text(encoding="utf-8").split("---")[1] if card is not None else ""
    except (OSError, UnicodeDecodeError, IndexError):
        return ""
    return str(parse_mapping(head).get("license") or "")


def _of_hub(name: str) -> WeightSource:
    """The weights of a repository, at one commit."""
    match = _REPOSITORY.fullmatch(name.removeprefix(HUB))
    if match is None:
        raise UsageError(f"'{name}' names no repository of the hub; write {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    repository = match["name"]
    fetch = _repository(name, repository, match["revision"])
    weights = _first(fetch, WEIGHTS)
    if weights is None:
        raise CheckpointError(_not_found(name, repository))
    commit = weights.parent.name  # of the cache: .../snapshots/COMMIT/FILE; the other files are of the same one
    label = f"{HUB}{repository}@{commit}/{weights.name}"
    return _with_what_is_beside(label, weights, _repository(name, repository, commit))


def _repository(name: str, repository: str, revision: str | None) -> Fetch:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise UsageError(f"{name}: this needs the library huggingface_hub: pip install 'vlrun[hub]'") from error

    cache_only = False

    def fetch(file: str) -> Path | None:
        nonlocal cache_only
        try:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=cache_only))
        except LocalEntryNotFoundError:  # not in the cache, and no network: it is not waited for again
            cache_only = True
            return None
        except EntryNotFoundError:
            return None
        except HFValidationError as error:
            raise UsageError(f"'{name}' names no repository of the hub: {error}") from error
        except GatedRepoError as error:
            raise CheckpointError(
                f"{name}: its owners ask for consent first: give it on https://huggingface.co/{repository}, then "
                "`hf auth login`"
            ) from error
        except RevisionNotFoundError as error:
            raise CheckpointError(f"{name}: the repository has no revision '{revision}'") from error
        except RepositoryNotFoundError as error:
            raise CheckpointError(
                f"{name}: there is no such repository, or it is private (`hf auth login` shows you yours)"
            ) from error
        except (HfHubHTTPError, OSError) as error:
            first = str(error).strip().split("\n", 1)[0]
            raise CheckpointError(f"{name}: cannot get {file}: {first}") from error

    return fetch


def _not_found(name: str, repository: str) -> str:
    """Why no weights were found, and what to do about it."""
    from huggingface_hub import constants

    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub has none, or it cannot be reached"
    return (
        f"{name}: no weights in the cache {constants.HF_HUB_CACHE}, and {offline}. Where there is a network run "
        f"`hf download {repository} --local-dir FOLDER`, copy that folder here, and name it instead of {name}"
    )

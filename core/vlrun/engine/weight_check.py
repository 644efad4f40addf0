"""``runner weights check FILE``: is an imported file still what was imported, and does the code still agree with it?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun.engine.forward_check import INPUT_VERSION, forward_check
from vlrun.engine.weight_files import read_imported
from vlrun.engine.weight_hash import CONTENT_KEY
from vlrun.errors import CheckpointError, PluginError
from vlrun.files import read_json, sha256_of
from vlrun.plugins.manager import Plugins

TOLERANCE = 1e-4
"""Of 1 + |x|. Float32 on another machine or with other threads differs by about 1e-5, other weights by far more."""


def check_file(path: Path, plugins: Plugins, *, must_compare: bool = True) -> list[str]:
    """Compares an imported file with what was written down when it was imported; returns lines on what was compared.

    Args:
        must_compare: whether it is an error that there is nothing to compare the network's output with.

    Raises:
        CheckpointError: the file has changed since, there is nothing to compare it with, or the numbers differ.
    """
    tensors, metadata = read_imported(path)
    own = "as in the file itself" if CONTENT_KEY in metadata else "none in the file: import it again to have one"
    lines = [f"hash of tensors and facts: {own}", *_check_hash(path)]
    stored = metadata.get("forward_check")
    if not stored and must_compare:
        raise CheckpointError(f"{path}: {_why_unchecked(metadata)}")
    if not stored:
        return [*lines, f"forward pass: not compared: the file {_why_unchecked(metadata)}"]
    if stored["input"] != INPUT_VERSION:
        raise CheckpointError(f"{path}: its numbers are of another fixed input than this version has; import it again")
    try:
        entry = plugins.find("backbone", metadata["backbone"])
    except PluginError as error:
        raise CheckpointError([f"{path}: made for a backbone that is not here", *error.problems]) from error
    again = forward_check(entry, metadata["options"], tensors)
    if again is None:
        raise CheckpointError(f"{path}: does not fill the backbone '{entry.name}' any more; import it again")
    problems = []
    for name, before in stored["outputs"].items():
        now = again["outputs"].get(name, [])
        worst = max((abs(a - b) / (1 + abs(a)) for a, b in zip(before, now, strict=False)), default=0.0)
        if len(before) != len(now) or not worst <= TOLERANCE:  # NaN too
            problems.append(
                f"{path}: output '{name}' differs by up to {worst:.1e} from the import ({TOLERANCE:g} is allowed)"
            )
        else:
            lines.append(f"forward pass: {len(before)} numbers of '{name}' as at the import, up to {worst:.1e}")
    if problems:
        cause = "either these are no longer the weights that were imported, or the network computes something else now"
        raise CheckpointError([*problems, f"{path}: {cause}"])
    return lines


def _check_hash(path: Path) -> list[str]:
    manifest = path.with_suffix(".json")
    if not manifest.is_file():
        return [f"hash: not compared, {manifest.name} is not there"]
    recorded = read_json(manifest).get("sha256")
    if recorded != sha256_of(path):
        raise CheckpointError(f"{path}: not the file that was imported: its hash is not the one in {manifest.name}")
    return [f"hash: as in {manifest.name}"]


def _why_unchecked(metadata: Mapping[str, Any]) -> str:
    if "backbone" not in metadata:
        return "not a file that `runner weights import` or `export` has made; import it first"
    if metadata.get("partial"):
        return "fills a part of its backbone by design, so there is no output of its own to check"
    return (
        "holds no numbers to compare: it was imported by an earlier version, does not fill its backbone, or has an "
        "unknown number of heads. Import it again, with --num-heads where its width is an uncommon one"
    )

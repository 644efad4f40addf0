"""Which code the core and the plugins are: hashes of their files, for what must be known or made again with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from vlrun.plugins.manager import CORE, Plugins


def code_of_plugins(plugins: Plugins) -> dict[str, str]:
    """Distribution -> hash of the files of its plugins, editable or not; that of the core, too."""
    packages: dict[str, set[str]] = {}
    for record in plugins.records:
        packages.setdefault(record.distribution, set()).add(record.package)
    return {
        name: code_hash((), core=("",)) if name == CORE else code_hash(sorted(inside), core=())
        for name, inside in sorted(packages.items())
    }


def code_hash(modules: Iterable[str], core: Sequence[str] = ("",)) -> str:
    """A hash of every file of the packages that some modules are in, and of parts of the core.

    A version number, or a list of modules kept by hand, would leave stale files behind while the code is worked on;
    all that is installed would make everything again for a comment anywhere.

    Args:
        modules: paths to code, ``"package.module:name"`` or ``"package.module"``.
        core: files and folders of the core, by default all of it. It counts in no other way.
    """
    packages = {module.partition(":")[0].partition(".")[0] for module in modules} - {CORE}
    digest = hashlib.blake2b(digest_size=5)
    for package, inside in [(CORE, sorted(core)), *((package, [""]) for package in sorted(packages))]:
        spec = find_spec(package)
        if spec is not None and spec.submodule_search_locations is None and spec.origin:  # a module alone
            digest.update(f"{package}\x1f".encode() + Path(spec.origin).read_bytes())
        for folder in sorted((spec.submodule_search_locations or []) if spec is not None else []):
            for part in inside:
                for file in _files_at(Path(folder, part)):
                    digest.update(f"{package}/{file.relative_to(folder)}\x1f".encode() + file.read_bytes())
    return digest.hexdigest()


def _files_at(path: Path) -> list[Path]:
    found = [path] if path.is_file() else path.rglob("*")
    return sorted(file for file in found if file.is_file() and file.suffix != ".pyc")

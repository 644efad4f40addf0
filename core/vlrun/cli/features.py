"""``runner features``: builds, inspects and verifies region-feature stores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlrun.errors import DataError, PluginError, first_few

if TYPE_CHECKING:
    from vlrun.features.layout import Manifest
    from vlrun.features.store import RegionFeatureStore
    from vlrun.interfaces.examples import RegionFeatures
    from vlrun.plugins.entries import FeatureFormat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    build = actions.add_parser("build", help="import feature files into a store")
    build.add_argument("source", nargs="+", type=Path, metavar="SOURCE", help="file or folder; several are joined")
    build.add_argument("out", type=Path, metavar="OUT", help="the store, a new folder")
    build.add_argument("--from", dest="format", metavar="FORMAT", help="format of SOURCE; recognised where left out")
    build.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="type of the features (default: float16)"
    )
    build.add_argument("--extractor", default="", metavar="TEXT", help="what made the features; kept in the store")
    build.add_argument(
        "--expect-ids",
        type=Path,
        metavar="FILE",
        help="fail unless all these images are there (an id or file name a line)",
    )
    build.add_argument("--overwrite", action="store_true", help="replace a store at OUT")

    inspect = actions.add_parser("inspect", help="show what is in a store")
    inspect.add_argument("store", type=Path, metavar="STORE")
    inspect.add_argument("--image", metavar="ID", help="show one image")
    inspect.add_argument("--json", action="store_true", help="machine-readable output")

    verify = actions.add_parser("verify", help="read a whole store and check every record")
    verify.add_argument("store", type=Path, metavar="STORE")
    verify.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    actions = {"build": _build, "inspect": _inspect, "verify": _verify}
    return actions[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from vlrun.features.build import build_store
    from vlrun.reporting.progress import progress_on_stderr

    with progress_on_stderr() as told:
        try:
            built = build_store(
                arguments.source,
                arguments.out,
                _chosen_format(arguments, told.note),
                dtype=arguments.dtype,
                extractor=arguments.extractor,
                overwrite=arguments.overwrite,
                expected_ids=_ids_in(arguments.expect_ids) if arguments.expect_ids else (),
                say=told.note,
                progress=told.progress,
            )
        except KeyboardInterrupt:
            told.note("the same command continues this build")
            raise
    print(f"{'built' if built.is_new else 'up to date:'} {built.path}")
    _print_facts(built.manifest, built.path)
    return 0


def _chosen_format(arguments: argparse.Namespace, say: Callable[[str], None]) -> FeatureFormat:
    from vlrun.features.build import detect_format
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    formats = plugins.feature_formats()
    if arguments.format is None:
        found = detect_format(arguments.source, formats)
        say(f"reading {', '.join(map(str, arguments.source))} as --from {found.name}")
        return found
    if arguments.format not in formats:
        raise PluginError(plugins.why_missing("feature format", arguments.format))
    return formats[arguments.format]


def _ids_in(file: Path) -> list[str]:
    from vlrun.interfaces.examples import canonical_image_id

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return [canonical_image_id(line.strip()) for line in lines if line.strip()]


def _inspect(arguments: argparse.Namespace) -> int:
    from vlrun.features.store import RegionFeatureStore

    store = RegionFeatureStore(arguments.store)
    if arguments.image is not None:
        _show_image(store[arguments.image], as_json=arguments.json)
    elif arguments.json:
        print(json.dumps(_as_json(store), indent=2))
    else:
        ids = store.image_ids()
        print(f"{arguments.store}")
        _print_facts(store.manifest, arguments.store, {"images": ", ".join(first_few(ids, 3))})
    return 0


def _as_json(store: RegionFeatureStore) -> dict[str, Any]:
    from dataclasses import asdict

    return {"path": str(store.path), "bytes": _size_of(store.path), **asdict(store.manifest)}


def _print_facts(manifest: Manifest, path: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    from vlrun.reporting.tables import TextTable

    regions = f"{manifest.min_regions}"
    if manifest.max_regions != manifest.min_regions:
        regions += f" to {manifest.max_regions}"
    facts = {
        "count": f"{manifest.count:,} images of {regions} regions",
        "features": f"{manifest.feature_width} x {manifest.dtype}; boxes {manifest.box_format}",
        "size": _in_units(_size_of(path)),
        "extractor": manifest.extractor or "not stated",
        "source": f"{manifest.source_format} {manifest.source}".rstrip(),
        "created": manifest.created,
        "fingerprint": manifest.fingerprint,
        **more,
    }
    print("\n".join(TextTable((), list(facts.items())).as_lines(indent=4)))


def _show_image(regions: RegionFeatures, *, as_json: bool) -> None:
    from vlrun.reporting.tables import TextTable, print_table

    optional = ("class_ids", "class_scores", "attribute_ids", "attribute_scores")
    given = {name: array.tolist() for name in optional if (array := getattr(regions, name)) is not None}
    features = regions.features.astype("float32")
    facts = {
        "image_id": regions.image_id,
        "height": regions.height,
        "width": regions.width,
        "num_regions": len(features),
        "feature_width": features.shape[1],
        "dtype": str(regions.features.dtype),
        "feature_range": [float(features.min()), float(features.max())],
        "feature_mean": float(features.mean()),
    }
    if as_json:
        print(json.dumps({**facts, "boxes": regions.boxes.tolist(), **given}))
        return
    print_table(TextTable((), [(name, str(value)) for name, value in facts.items()]))
    columns = ["region", "x1", "y1", "x2", "y2", *given]
    rows = [
        [str(number), *(f"{corner:.1f}" for corner in box), *(f"{values[number]:.4g}" for values in given.values())]
        for number, box in enumerate(regions.boxes)
    ]
    print_table(TextTable(columns, rows, numeric=columns))


def _verify(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vlrun.features.verify import verify_store
    from vlrun.reporting.progress import progress_on_stderr

    with progress_on_stderr() as told:
        found = verify_store(arguments.store, told.progress)
    if arguments.json:
        problems = [asdict(problem) for problem in found.problems]
        summary = {"path": str(found.path), "ok": found.is_sound, "count": found.count}
        print(json.dumps({**summary, "num_problems": found.num_problems, "problems": problems}, indent=2))
    elif found.is_sound:
        print(f"{found.path}: {found.count:,} images, no problems")
    else:
        print(f"{found.path}: {found.count:,} images, {found.num_problems:,} problems")
        print("\n".join(f"    {problem}" for problem in found.problems))
        if found.num_problems > len(found.problems):
            print(f"    and {found.num_problems - len(found.problems):,} more")
    return 0 if found.is_sound else DataError.exit_status


def _size_of(path: Path) -> int:
    from vlrun.features.handles import find_store_file

    return find_store_file(path).stat().st_size


def _in_units(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

"""``runner features``: builds, inspects and verifies region-feature stores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.errors import DataError, PluginError, first_few

if TYPE_CHECKING:
    from vlrun.features.layout import Manifest
    from vlrun.interfaces.examples import RegionFeatures
    from vlrun.plugins.entries import FeatureFormat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares ``build``, ``inspect`` and ``verify``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    build = actions.add_parser("build", help="import feature files into a store")
    build.add_argument("source", nargs="+", type=Path, metavar="SOURCE", help="file or folder; several are joined")
    build.add_argument("out", type=Path, metavar="OUT", help="the store, a new folder")
    build.add_argument("--from", dest="format", metavar="FORMAT", help="format of SOURCE; recognised by default")
    build.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="type of the features (default: float16)"
    )
    build.add_argument("--extractor", default="", metavar="TEXT", help="what made the features; kept in the store")
    build.add_argument(
        "--expect-ids",
        type=Path,
        metavar="FILE",
        help="fail unless all these images are there (one id or file name per line)",
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
    """Runs the chosen action."""
    actions = {"build": _build, "inspect": _inspect, "verify": _verify}
    return actions[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from vlrun.features.build import build_store
    from vlrun.reporting.progress import progress_on_stderr

    with progress_on_stderr() as reporters:
        try:
            result = build_store(
                arguments.source,
                arguments.out,
                _chosen_format(arguments, reporters.note),
                dtype=arguments.dtype,
                extractor=arguments.extractor,
                overwrite=arguments.overwrite,
                expected_ids=_read_ids(arguments.expect_ids) if arguments.expect_ids else (),
                say=reporters.note,
                progress=reporters.progress,
            )
        except KeyboardInterrupt:
            reporters.note("the same command continues this build")
            raise
    print(f"{'built' if result.is_new else 'up to date:'} {result.path}")
    _print_facts(result.manifest, result.path)
    return 0


def _chosen_format(arguments: argparse.Namespace, say: Callable[[str], None]) -> FeatureFormat:
    from vlrun.features.build import detect_format
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    formats = plugins.feature_formats()
    if arguments.format is None:
        detected = detect_format(arguments.source, formats)
        say(f"reading {', '.join(map(str, arguments.source))} as --from {detected.name}")
        return detected
    if arguments.format not in formats:
        raise PluginError(plugins.why_missing("feature format", arguments.format))
    return formats[arguments.format]


def _read_ids(file: Path) -> list[str]:
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
        facts = {"path": str(store.path), "bytes": _file_size(store.path), **asdict(store.manifest)}
        print(json.dumps(facts, indent=2))
    else:
        print(f"{arguments.store}")
        _print_facts(store.manifest, arguments.store, images=", ".join(first_few(store.image_ids(), 3)))
    return 0


def _print_facts(manifest: Manifest, path: Path, **more: str) -> None:
    from vlrun.reporting.tables import TextTable

    fewest, most = manifest.min_regions, manifest.max_regions
    regions = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    facts = {
        "count": f"{manifest.count:,} images of {regions} regions",
        "features": f"{manifest.feature_width} x {manifest.dtype}; boxes {manifest.box_format}",
        "size": _size_text(_file_size(path)),
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
    from vlrun.features.verify import verify_store
    from vlrun.reporting.progress import progress_on_stderr

    with progress_on_stderr() as reporters:
        result = verify_store(arguments.store, reporters.progress)
    if arguments.json:
        problems = [asdict(problem) for problem in result.problems]
        summary = {"path": str(result.path), "ok": result.is_sound, "count": result.count}
        print(json.dumps({**summary, "num_problems": result.num_problems, "problems": problems}, indent=2))
    elif result.is_sound:
        print(f"{result.path}: {result.count:,} images, no problems")
    else:
        print(f"{result.path}: {result.count:,} images, {result.num_problems:,} problems")
        print("\n".join(f"    {problem}" for problem in result.problems))
        if result.num_problems > len(result.problems):
            print(f"    and {result.num_problems - len(result.problems):,} more")
    return 0 if result.is_sound else DataError.exit_status


def _file_size(path: Path) -> int:
    from vlrun.features.handles import find_store_file

    return find_store_file(path).stat().st_size


def _size_text(size: float) -> str:
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f} {units[0]}".replace(".0 bytes", " bytes")

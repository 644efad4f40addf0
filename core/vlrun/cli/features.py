"""``runner features``: extracts, builds, inspects, verifies and compares region-feature stores."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.cli.format_help import add_help
from vlrun.cli.origins import add_origin_arguments, given_origin
from vlrun.errors import DataError, PluginError, UsageError, first_few
from vlrun.foreign.printing import say, say_json

if TYPE_CHECKING:
    from vlrun.features.layout import Manifest
    from vlrun.interfaces.examples import RegionFeatures
    from vlrun.plugins.entries import FeatureFormat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares ``extract``, ``build``, ``inspect``, ``verify`` and ``compare``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    _add_extract(actions.add_parser("extract", help="detect the regions of pictures and write them into a store"))

    build = actions.add_parser("build", help="import feature files into a store", add_help=False)
    add_help(build, lambda plugins: plugins.feature_formats().values())
    build.add_argument("source", nargs="+", type=Path, metavar="SOURCE", help="file or folder; several are joined")
    build.add_argument("out", type=Path, metavar="OUT", help="the store, a new folder")
    build.add_argument("--from", dest="format", metavar="FORMAT", help="format of SOURCE; recognised by default")
    build.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="type of the features (default: float16)"
    )
    add_origin_arguments(build, "the features; default: what SOURCE tells")
    build.add_argument(
        "--expect-ids",
        type=Path,
        metavar="FILE",
        help="fail unless all these images are there (one id or file name per line)",
    )
    build.add_argument(
        "--ids",
        nargs=2,
        metavar=("KIND", "FILE"),
        help="other ids than those of SOURCE: 'numbers FILE' turns 58350 into COCO_val2014_000000058350, if that is "
        "in FILE, annotations or a folder of them; 'karpathy dataset_flickr30k.json' turns imgid into file names",
    )
    build.add_argument(
        "--normalised-boxes", action="store_true", help="boxes of SOURCE are parts of the image, from 0 to 1"
    )
    build.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave out damaged images, and those that come again, naming them; the exit status says so",
    )
    build.add_argument("--overwrite", action="store_true", help="replace a store at OUT")

    inspect = actions.add_parser("inspect", help="show what is in a store")
    inspect.add_argument("store", type=Path, metavar="STORE")
    inspect.add_argument("--image", metavar="ID", help="show one image")
    inspect.add_argument("--json", action="store_true", help="machine-readable output")

    verify = actions.add_parser("verify", help="read a whole store and check every record")
    verify.add_argument("store", type=Path, metavar="STORE")
    verify.add_argument("--json", action="store_true", help="machine-readable output")

    compare = actions.add_parser("compare", help="compare the regions of the images that two stores share")
    compare.add_argument("first", type=Path, metavar="STORE")
    compare.add_argument("second", type=Path, metavar="OTHER")
    compare.add_argument(
        "--overlap",
        type=float,
        default=0.9,
        metavar="IOU",
        help="from which two boxes can be the same one; each must also be the other's best (default: 0.9)",
    )
    compare.add_argument("--json", action="store_true", help="machine-readable output")


def _add_extract(extract: argparse.ArgumentParser) -> None:
    extract.add_argument("folder", type=Path, metavar="FOLDER", help="pictures, in folders below it too; or one file")
    extract.add_argument("out", type=Path, metavar="STORE", help="a new store, or one that the same detector made")
    extract.add_argument(
        "overrides", nargs="*", metavar="option=value", help="of the detector; `runner list detectors --options`"
    )
    extract.add_argument("--detector", metavar="DETECTOR", required=True, help="one of `runner list detectors`")
    extract.add_argument("--weights", metavar="FILE", help="imported weights of the detector (.safetensors)")
    extract.add_argument("--boxes", metavar="N", help="regions of a picture: 36, or the fewest and the most: 10-100")
    extract.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes that share the pictures (default: 1)"
    )
    extract.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="type of the features (default: float16)"
    )
    extract.add_argument("--overwrite", action="store_true", help="replace a store at STORE, and extract all anew")


def run(arguments: argparse.Namespace) -> int:
    """Runs the chosen action."""
    actions = {"extract": _extract, "build": _build, "inspect": _inspect, "verify": _verify, "compare": _compare}
    return actions[arguments.action](arguments)


def _extract(arguments: argparse.Namespace) -> int:
    from vlrun.cli.detectors import detector_maker, options_given
    from vlrun.features.extract import extract_store, find_pictures
    from vlrun.reporting.progress import progress_on_stderr

    if arguments.processes < 1:
        raise UsageError(f"--processes {arguments.processes}: at least one is needed")
    given = options_given(arguments.overrides)
    given |= {name: value for name in ("weights", "boxes") if (value := getattr(arguments, name)) is not None}
    make_detector = detector_maker(arguments.detector, given)
    pictures = find_pictures(arguments.folder)
    with progress_on_stderr() as told:
        try:
            extracted = extract_store(
                pictures,
                arguments.out,
                make_detector,
                source=f"{arguments.folder.absolute().name} ({len(pictures):,} files)",
                processes=arguments.processes,
                dtype=arguments.dtype,
                overwrite=arguments.overwrite,
                say=told.note,
                progress=told.progress,
            )
        except KeyboardInterrupt:
            told.note("the same command continues this extraction")
            raise
    say(f"{'wrote' if extracted.is_new else 'up to date:'} {extracted.path}")
    _print_facts(extracted.manifest, extracted.path)
    if extracted.failed:
        raise DataError(
            [
                f"{len(extracted.failed):,} of {len(pictures):,} pictures are not in it:",
                *(f"    {line}" for line in first_few(extracted.failed)),
            ]
        )
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from vlrun.features.compare import compare_stores
    from vlrun.features.origin import FeatureOrigin
    from vlrun.features.store import RegionFeatureStore
    from vlrun.reporting.progress import progress_on_stderr
    from vlrun.reporting.tables import TextTable

    stores = [RegionFeatureStore(path) for path in (arguments.first, arguments.second)]
    with progress_on_stderr() as told:
        found = compare_stores(stores[0], stores[1], arguments.overlap, told.progress)
    if arguments.json:
        say_json(asdict(found))
        return 0

    def ids(differing: int | None) -> str:
        return "not known" if differing is None else f"{differing:,} of {found.matched:,} differ"

    facts = {
        "images": f"{found.images:,} in both; {found.only_first:,} and {found.only_second:,} in one alone",
        "sizes": f"{found.other_size:,} images have another height or width" if found.other_size else "equal",
        "regions": f"{found.regions_first:,} and {found.regions_second:,}; {found.matched_share:.2%} match "
        f"(overlap of at least {arguments.overlap:g})",
        "boxes": f"up to {found.box_distance:.3g} pixels apart" if found.matched else "none to compare",
        "features": f"cosine {found.mean_cosine:.6f} on average, {found.lowest_cosine:.6f} at least; "
        f"up to {found.difference:.3g} apart"
        if found.matched
        else "none to compare",
        "classes": ids(found.differing_classes),
        "attributes": ids(found.differing_attributes),
    }
    for name, store in zip(("first", "second"), stores, strict=True):
        manifest = store.manifest
        facts[name] = str(FeatureOrigin(manifest.extractor, manifest.extractor_weights, manifest.boxes))
    say(*TextTable((), list(facts.items())).as_lines())
    say("images that agree least:")
    rows = [
        [image_id, f"{share:.1%}", "" if cosine is None else f"{cosine:.6f}"] for image_id, share, cosine in found.worst
    ]
    columns = ["image", "match", "lowest cosine"]
    say(*TextTable(columns, rows, columns[1:]).as_lines(indent=4))
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from vlrun.features.adapt import read_id_table
    from vlrun.features.build import build_store
    from vlrun.reporting.progress import progress_on_stderr

    with progress_on_stderr() as reporters:
        try:
            result = build_store(
                arguments.source,
                arguments.out,
                _chosen_format(arguments, reporters.note),
                dtype=arguments.dtype,
                origin=given_origin(arguments),
                ids=read_id_table(arguments.ids[0], Path(arguments.ids[1])) if arguments.ids else None,
                normalised_boxes=arguments.normalised_boxes,
                skip_damaged=arguments.skip_damaged,
                overwrite=arguments.overwrite,
                expected_ids=_read_ids(arguments.expect_ids) if arguments.expect_ids else (),
                say=reporters.note,
                progress=reporters.progress,
            )
        except KeyboardInterrupt:
            reporters.note("the same command continues this build")
            raise
    say(f"{'built' if result.is_new else 'up to date:'} {result.path}")
    _print_facts(result.manifest, result.path)
    return DataError.exit_status if result.manifest.skipped else 0


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
        lines = file.read_text(encoding="utf-8-sig").splitlines()
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
        say_json(facts)
    else:
        say(arguments.store)
        _print_facts(store.manifest, arguments.store, images=", ".join(first_few(store.image_ids(), 3)))
    return 0


def _print_facts(manifest: Manifest, path: Path, **more: str) -> None:
    from vlrun.features.origin import FeatureOrigin
    from vlrun.reporting.tables import TextTable

    fewest, most = manifest.min_regions, manifest.max_regions
    regions = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    facts = {
        "count": f"{manifest.count:,} images of {regions} regions",
        "features": f"{manifest.feature_width} x {manifest.dtype}; boxes {manifest.box_format}",
        "size": _size_text(_file_size(path)),
        "extractor": str(FeatureOrigin(manifest.extractor, manifest.extractor_weights, manifest.boxes)),
        "source": f"{manifest.source_format} {manifest.source}".rstrip(),
        **({"ids": manifest.ids} if manifest.ids else {}),
        **({"left out": f"{manifest.skipped:,} damaged records"} if manifest.skipped else {}),
        "created": manifest.created,
        "fingerprint": manifest.fingerprint,
        **more,
    }
    say(*TextTable((), list(facts.items())).as_lines(indent=4))


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
        say_json({**facts, "boxes": regions.boxes.tolist(), **given}, indent=None)
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
        say_json({**summary, "num_problems": result.num_problems, "problems": problems})
    elif result.is_sound:
        say(f"{result.path}: {result.count:,} images, no problems")
    else:
        say(f"{result.path}: {result.count:,} images, {result.num_problems:,} problems")
        say(*(f"    {problem}" for problem in result.problems))
        if result.num_problems > len(result.problems):
            say(f"    and {result.num_problems - len(result.problems):,} more")
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

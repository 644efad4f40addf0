"""The options that say what made features: of a store, and of what weights were trained on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vlrun.errors import UsageError

if TYPE_CHECKING:
    from vlrun.features.origin import FeatureOrigin


def add_origin_arguments(parser: argparse.ArgumentParser, made: str) -> None:
    """Adds --extractor, --extractor-weights and --boxes; ``made`` says in the help whose they are."""
    parser.add_argument(
        "--extractor",
        default="",
        metavar="NAME",
        help=f"what made {made}. Runs compare the two. bua-caffe is bottom-up attention in Caffe and its conversions, "
        "as ROSITA and LXMERT have; or another name (vinvl, mmf-x152, ...); or a remark of several words, which is not "
        "compared",
    )
    parser.add_argument(
        "--extractor-weights", default="", metavar="NAME", help="name or hash of the weights of what made them"
    )
    parser.add_argument("--boxes", default="", metavar="N|N-M", help="boxes that it keeps of an image, such as 10-100")


def given_origin(arguments: argparse.Namespace) -> FeatureOrigin:
    """What these options say; raises UsageError where a number of boxes is none."""
    from vlrun.features.origin import FeatureOrigin

    try:
        return FeatureOrigin(arguments.extractor, arguments.extractor_weights, arguments.boxes)
    except ValueError as error:
        raise UsageError(str(error)) from error

"""``runner serve RUN``: a local web page on which one asks the run's model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun import UsageError
from vlrun.cli.detectors import add_detector_arguments, photograph_reader
from vlrun.foreign.printing import say

if TYPE_CHECKING:
    from werkzeug.serving import WSGIRequestHandler

IDLE_SECONDS = 60
"""A connection that sends nothing for so long is closed."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, its pictures, and where to listen."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the run's config.yaml")
    parser.add_argument("--task", help="the task of a joint run, by its label")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a checkpoint folder (default: best)")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="pictures named by their image ids, to be shown"
    )
    add_detector_arguments(parser)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--host",
        default=LOOPBACK[0],
        help="address to listen on (default: 127.0.0.1). Any other lets everybody ask who can reach this machine: the "
        "page has no password",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is interrupted.

    Raises:
        UsageError: the address cannot be listened on, or the folder of pictures is not there.
    """
    from werkzeug.serving import make_server

    from vlrun import load_run
    from vlrun_serve.app import AskPage

    if arguments.pictures is not None and not arguments.pictures.is_dir():
        raise UsageError(f"--pictures {arguments.pictures}: there is no such folder")
    reader = photograph_reader(arguments)
    loaded = load_run(
        arguments.run_folder, arguments.checkpoint, task=arguments.task, overrides=arguments.overrides, detector=reader
    )
    note = loaded.note_on_photographs(reader.detector) if reader is not None else None
    hosts = [*LOOPBACK, f"[{LOOPBACK[2]}]"] if arguments.host in LOOPBACK else None
    page = AskPage(loaded, arguments.pictures, trusted_hosts=hosts, note=note)
    handler = request_handler(IDLE_SECONDS)
    try:
        server = make_server(arguments.host, arguments.port, page, threaded=True, request_handler=handler)
    except (OSError, OverflowError, SystemExit) as error:  # werkzeug leaves where the port is taken
        raise UsageError(
            f"--host {arguments.host} --port {arguments.port}: cannot listen there; is it taken?"
        ) from error
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    say(f"http://{host}:{server.port}  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0


def request_handler(idle_seconds: float) -> type[WSGIRequestHandler]:
    """Werkzeug's handler of connections, which closes those that send nothing for ``idle_seconds``."""
    from werkzeug.serving import WSGIRequestHandler

    class RequestHandler(WSGIRequestHandler):
        timeout = idle_seconds

    return RequestHandler

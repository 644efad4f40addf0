"""Copying feature stores to a disk of each machine before a run reads them, while no process waits in vain."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from vlrun.config.experiment import Experiment
from vlrun.engine.ranks import Ranks
from vlrun.engine.stopping import StopRequest, leave_if_asked
from vlrun.errors import ConfigError
from vlrun.features.staging import staged_copy
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.reporter import Reporters

_BEAT_SECONDS = 1.0


def stage_features(
    experiment: Experiment, ranks: Ranks, reporters: Reporters, stop: StopRequest | None = None
) -> Mapping[Path, Path]:
    """Copies the feature stores of all tasks to ``features.stage``; store -> copy. Empty without it, or for pictures.

    Machines may take different times, so the ranks tell each other every second that copying goes on.

    Raises:
        ConfigError: the folder holds a variable that is not set here.
        DataError: a store cannot be copied.
        StoppedOnRequest: a signal came; what was copied is kept.
    """
    if experiment.features.stage is None or not experiment.feature_stores:
        return {}
    copies: dict[Path, Path] = {}
    with ranks.together():
        folder = stage_folder(experiment.features.stage)
    for path in experiment.feature_stores:
        work = _Copying(path, folder)
        while ranks.any(not work.ended.wait(_BEAT_SECONDS)):
            reporters.progress(f"copying features to {folder} (MB)", *work.megabytes)
            leave_if_asked(ranks, stop or StopRequest(), "the copying of features")
        with ranks.together():
            copies[path] = work.result()
        reporters.note(f"features of {path} are read from {copies[path]}")
    return copies


def stage_folder(written: str) -> Path:
    """The folder that the option means on this machine.

    Raises:
        ConfigError: it holds a variable that is not set here.
    """
    expanded = os.path.expanduser(os.path.expandvars(written))
    if unset := re.search(r"\$\w+|\$\{\w+\}", expanded):
        raise ConfigError(f"features.stage: {unset[0]} in '{written}' is not set on this machine")
    return Path(expanded).absolute()


class _Copying:
    """A copy that is being made in a thread, which ends with this process."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.ended, self.megabytes = threading.Event(), (0, 0)
        self._path, self._folder = path, folder
        self._copy: Path | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="staging", daemon=True).start()

    def result(self) -> Path:
        """The copy; raises what went wrong."""
        if self._error is not None:
            raise self._error
        assert self._copy is not None
        return self._copy

    def _run(self) -> None:
        try:
            self._copy = staged_copy(RegionFeatureStore(self._path), self._folder, self._note)
        except Exception as error:  # for the thread that waits
            self._error = error
        finally:
            self.ended.set()

    def _note(self, done: int, total: int) -> None:
        self.megabytes = (done // 1_000_000, total // 1_000_000)

"""Stages: a run that starts from the checkpoint of another one, ``backbone.weights: run:NAME``.

The reference becomes a file of weights before anything else is done, so that all of the rest, the run's own record too,
knows one concrete file: ``RUN/weights/best_00000120.safetensors``, in the folder of the run that it was made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment, load_experiment
from vlrun.config.preflight import WEIGHTS_SUFFIX
from vlrun.config.run_reference import RunReference, run_reference
from vlrun.engine.checkpoints import MANIFEST, MODEL, Checkpoints
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import read_imported
from vlrun.errors import CheckpointError, DataError
from vlrun.foreign.json import parse_json
from vlrun.foreign.yaml import parse_yaml
from vlrun.plugins.manager import Plugins
from vlrun.runs.export import export_weights

FOLDER = "weights"
"""Where the weights that other runs have started from lie in a run folder."""


def initial_weights(experiment: Experiment, plugins: Plugins, continued: RunFolder | None = None) -> Path | None:
    """The file that ``backbone.weights`` stands for, made from a checkpoint if that names a run.

    Args:
        continued: the run that goes on. It keeps the source that it started with, whatever has finished since.

    Raises:
        DataError: there is no such run, or none that has finished; says what to run.
        CheckpointError: the checkpoint is damaged, or there is none.
    """
    reference = run_reference(experiment.backbone.weights)
    if reference is None:
        return experiment.backbone.weights
    kept = None if continued is None else _kept(continued, _place(experiment, reference), reference)
    if continued is not None and kept is not None:
        if kept.exists() or continued.read_status().get("status") == "done":  # then nobody will read it
            return kept
        source, step = RunFolder(kept.parent.parent), kept.stem.rpartition("_")[2]
        return _made(source, str(source.checkpoints / f"step_{step}"), kept, plugins)
    source = finished_run(experiment, reference)
    return _made(source, reference.checkpoint, None, plugins)


def with_weights(experiment: Experiment, weights: Path | None) -> Experiment:
    """The experiment with another ``backbone.weights``."""
    return experiment.model_copy(update={"backbone": experiment.backbone.model_copy(update={"weights": weights})})


def _kept(continued: RunFolder, place: Path, reference: RunReference) -> Path | None:
    """The weights that a run started from, if they are what ``reference`` named then."""
    recorded = _config(continued).get("backbone", {}).get("weights")
    if recorded is None:
        return None
    weights = Path(recorded)
    source = weights.parent.parent.resolve()
    named = place in (source, source.parent) and weights.name.startswith(f"{reference.checkpoint}_")
    return weights if named and weights.parent.name == FOLDER else None


def finished_run(experiment: Experiment, reference: RunReference) -> RunFolder:
    """The newest finished run that ``reference`` names; a demo starts from a demo of its kind, and no other run does.

    Raises:
        DataError: there is none; says what to run.
    """
    place = _place(experiment, reference)
    folders = [place] if (place / "config.yaml").is_file() else sorted(place.glob("[0-9]*"), reverse=True)
    runs = [RunFolder(folder) for folder in folders if (folder / "config.yaml").is_file()]
    fitting = [run for run in runs if _config(run).get("demo", False) == experiment.demo]
    for run in fitting:
        if run.read_status().get("status") == "done":
            return run
    asked = f"backbone.weights: {experiment.backbone.weights}"
    if fitting:
        status = fitting[0].read_status().get("status", "unknown")
        raise DataError(
            f"{asked}: no run there has finished; the newest, {fitting[0].path}, is '{status}'. "
            f"Continue it first: runner run {fitting[0].path} --resume"
        )
    kind = "demo run" if experiment.demo else "run"
    option = {False: "", True: " --demo", "pictures": " --demo-pictures"}[experiment.demo]
    others = f" (what is there is {'no demo' if experiment.demo else 'a demo'})" if runs else ""
    raise DataError(
        f"{asked}: there is no {kind} in {place}{others}. Run that experiment first: "
        f"runner run {Path(reference.place).name}{option}"
    )


def seeded_run(experiment: Experiment, seed: int) -> RunFolder | None:
    """The newest run of an experiment with this seed, a demo run for a demo; None if there is none."""
    for path in sorted((experiment.runs_root / experiment.name).glob("[0-9]*/config.yaml"), reverse=True):
        run = RunFolder(path.parent.resolve())
        config = _config(run)
        if config.get("seed") == seed and config.get("demo", False) == experiment.demo:
            return run
    return None


def _place(experiment: Experiment, reference: RunReference) -> Path:
    place = experiment.runs_root / Path(reference.place).expanduser()
    return (place.parent if place.name == "latest" else place).resolve()  # that link may have moved on since


def _made(source: RunFolder, checkpoint: str, out: Path | None, plugins: Plugins) -> Path:
    """The weights of a checkpoint, in the folder of its run; made if they are not there."""
    chosen = Checkpoints(source.checkpoints, model_only=True).choose(checkpoint)
    out = out or source.path / FOLDER / f"{checkpoint}_{chosen.progress.step:08d}{WEIGHTS_SUFFIX}"
    made_from = parse_json((chosen.path / MANIFEST).read_bytes())[MODEL]
    if not out.exists() or _source_hash(out) != made_from:
        export_weights(source, load_experiment(source.config, plugins=plugins), out, plugins, str(chosen.path))
    return out


def _source_hash(weights: Path) -> str | None:
    try:
        return str(read_imported(weights, header_only=True)[1].get("source_sha256"))
    except CheckpointError:  # damaged: it is made again
        return None


def _config(run: RunFolder) -> dict[str, Any]:
    content: Any = parse_yaml(run.config.read_text(encoding="utf-8")).data
    return content if isinstance(content, dict) else {}

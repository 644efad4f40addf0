"""From a checked experiment to a finished run folder: build, train, evaluate, report."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlrun.config.components import config_model
from vlrun.config.experiment import Experiment
from vlrun.config.preflight import check_files
from vlrun.config.run_reference import run_reference
from vlrun.data.image_check import check_same_table
from vlrun.engine.assembly import assemble, check_splits
from vlrun.engine.claim import claimed, is_abandoned
from vlrun.engine.evaluation import evaluate_split
from vlrun.engine.precision import with_precision
from vlrun.engine.ranks import Ranks, join_ranks, lost_ranks_explained
from vlrun.engine.run import Run
from vlrun.engine.run_folder import (
    RunFolder,
    create_run_folder,
    latest_run_folder,
    now,
    run_folder_of,
    unstarted_runs,
    write_records,
)
from vlrun.engine.staging import stage_features
from vlrun.engine.start_checks import check_evaluation_batches, check_first_batch
from vlrun.engine.stopping import StopRequest, stop_on_signals
from vlrun.engine.trainer import Trainer, build_trainer
from vlrun.engine.training import load_final_weights, resume, train
from vlrun.errors import ConfigError, RunnerError, StoppedOnRequest
from vlrun.files import remove_left_over, write_text
from vlrun.foreign.yaml import parse_yaml
from vlrun.interfaces.reporter import Outcome, Reporters, ResultRow, RunInfo
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.reporting.hashes import is_damaged, is_known, refuse_damaged, text_hash
from vlrun.reporting.jsonl import FILE_NAME as METRICS
from vlrun.reporting.jsonl import set_damage_aside
from vlrun.reporting.options import flat_options
from vlrun.reporting.published import result_row
from vlrun.runs.changed_data import data_record, mark_changed_data, refuse_changed_data
from vlrun.runs.header import header_facts
from vlrun.runs.regrouping import mark_regrouping
from vlrun.runs.stages import initial_weights, with_weights

_MAY_CHANGE_ON_RESUME = {
    "train.workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.distributed_timeout",
    "train.evaluate_batch_size",
    "train.activation_checkpointing",
    "train.gradient_norms",
    "train.groups",  # of the same parameters, and results say so
    "features",
    "reporters",
    "built_in_reporters",
    "published",
}


@dataclass(frozen=True)
class RunResult:
    """Where a run lies, and its results: one row per final score.

    ``was_done`` says that the run to continue had already ended, so that nothing was left to do and there are no rows.
    """

    folder: Path
    rows: list[ResultRow]
    was_done: bool = False


def run_experiment(
    experiment: Experiment,
    *,
    plugins: Plugins | None = None,
    continues: bool = False,
    folder: Path | None = None,
    profile: bool = False,
    accepts_changed_data: bool = False,
) -> RunResult:
    """Trains, evaluates and reports ``experiment``, in this process or as one rank of a launched job.

    Args:
        continues: continue the newest unfinished run of the experiment, if there is one. What a launcher or a batch
            system starts again continues its own run in any case.
        folder: the run folder to continue, instead of the newest.
        profile: record a short trace and a table of operators in ``traces/``.
        accepts_changed_data: continue a run although its data have changed since it was started; its results say so.

    Raises:
        StoppedOnRequest: a signal came; a checkpoint was written.
        DataError: another process is at work in the run folder, or the data of the run to continue have changed.
        RunnerError: anything else that a user can mend, each kind with its exit status.
    """
    plugins = plugins or create_plugins()
    config = experiment.train
    distributed = join_ranks(config.distributed_timeout, config.threads)
    with distributed as ranks, stop_on_signals() as stop, ExitStack() as claim:
        experiment = _with_initial_weights(experiment, plugins, ranks, continues, folder)
        run_folder, is_new = ranks.from_main(lambda: _choose_folder(experiment, continues, folder, claim, ranks.job))
        if run_folder.read_status().get("status") == "done":
            return RunResult(run_folder.path, [], was_done=True)
        reporters = build_reporters(experiment, plugins, ranks)
        with (
            reporters,
            _recorded(experiment, run_folder, ranks, reporters) as rows,
            lost_ranks_explained(ranks.world_size),
        ):
            copies = stage_features(experiment, ranks, reporters, stop)
            known = run_folder.read_data()
            with ranks.together():
                if not is_new:
                    experiment = _as_started(experiment, run_folder)
                run = assemble(experiment, ranks, run_folder, reporters, plugins, copies=copies)
                if known:
                    check_same_table(experiment, known.get("image_identities"), run.identities)
                check_splits(run.tasks)
            if not is_new:
                changed = partial(refuse_changed_data, run, is_accepted=accepts_changed_data)
                mark_changed_data(run, ranks.from_main(changed))
                mark_regrouping(run, known)
            rows.extend(_train_and_evaluate(run, plugins, stop, is_new, continues, profile))
        return RunResult(run_folder.path, rows)


def _with_initial_weights(
    experiment: Experiment, plugins: Plugins, ranks: Ranks, continues: bool, folder: Path | None
) -> Experiment:
    """The experiment with the file that its weights stand for, if they name a run."""
    if run_reference(experiment.backbone.weights) is None:
        return experiment

    def resolved() -> Path | None:
        earlier, _ = _earlier(experiment, continues, folder, ranks.job)
        weights = initial_weights(experiment, plugins, earlier)
        check_files(with_weights(experiment, weights))
        return weights

    return with_weights(experiment, ranks.from_main(resolved))


def build_reporters(experiment: Experiment, plugins: Plugins, ranks: Ranks) -> Reporters:
    """The built-in reporters and those that the experiment names; the main rank alone has any."""
    if not ranks.is_main:
        return Reporters([])
    named = {config.name for config in experiment.reporters}
    built_in = [
        entry.build(config_model("reporter", entry)(name=entry.name))
        for entry in plugins.entries("reporter")
        if experiment.built_in_reporters and plugins.is_built_in("reporter", entry.name) and entry.name not in named
    ]
    listed = [plugins.find("reporter", config.name).build(config) for config in experiment.reporters]
    return Reporters([*built_in, *listed])


def _train_and_evaluate(
    run: Run, plugins: Plugins, stop: StopRequest, is_new: bool, continues: bool, profile: bool
) -> list[ResultRow]:
    with run.ranks.together():
        trainer = build_trainer(run, stop, plugins) if run.experiment.train.epochs else None
    continued = trainer is not None and not is_new and resume(trainer)
    run.ranks.share_weights(run.model)
    run.ranks.from_main(lambda: _start(run, trainer, plugins, is_new))
    if continued:
        run.reporters.note(f"continuing after step {run.step}")
    elif continues:
        where = run.folder.path.parent
        found = f"no run to continue in {where}" if is_new else f"no checkpoint to continue from in {run.folder.path}"
        run.reporters.note(f"--resume: there is {found}; starting from the first step")
    check_evaluation_batches(run, run.tasks)
    if trainer is not None:
        check_first_batch(trainer)
        with ExitStack() as profiling:
            train(trainer, profiling.enter_context(_profiled(run, profile, trainer.total_steps - run.step)))
            run.ranks.from_main(profiling.close)  # writing a trace takes long
    return _final_results(run, trainer, stop)


def _start(run: Run, trainer: Trainer | None, plugins: Plugins, is_new: bool) -> None:
    """Writes the records of the run and greets the reader."""
    total, per_epoch = (trainer.total_steps, trainer.mix.steps_per_epoch) if trainer else (0, 1)
    changed = run.folder.changed_code(plugins)
    write_records(run.folder, run.experiment.as_yaml(), plugins, partial(data_record, run))
    run.folder.write_status(step=run.step, total_steps=total)  # it may have been killed after its last checkpoint
    remarks = []
    if not is_new and (run.experiment.built_in_reporters or (run.folder.path / METRICS).exists()):
        rows = trainer.evaluations.rows if trainer else []
        remarks = set_damage_aside(
            run.folder.path, run.step, [(row["step"], row["task"], row["split"]) for row in rows]
        )
    run.reporters.start(
        RunInfo(
            run.experiment.name,
            run.folder.path,
            header_facts(run, trainer),
            total,
            per_epoch,
            run.experiment.train.epochs,
            run.step,
            bool(run.experiment.demo),
            len(run.tasks),
        )
    )
    if changed:
        run.reporters.note(f"the code of {', '.join(changed)} is another than when this run started")
    for remark in remarks:
        run.reporters.note(remark)


def _final_results(run: Run, trainer: Trainer | None, stop: StopRequest) -> list[ResultRow]:
    """Scores every split of every task with the weights chosen for the task."""
    rows, data, options = [], run.folder.read_data(), run.experiment.model_dump(mode="json")
    checkpoint = "as built" if run.weights is None else "imported weights"
    for task_run in run.tasks:
        if trainer is not None:
            checkpoint = load_final_weights(trainer, task_run)
        for split in task_run.splits:
            epochs = run.experiment.train.epochs
            report = evaluate_split(run, task_run, split, epoch=epochs, stop=stop, final=True, checkpoint=checkpoint)
            rows += [result_row(options, data, task_run.name, split, score) for score in report.scores]
    return rows


@contextmanager
def _recorded(
    experiment: Experiment, folder: RunFolder, ranks: Ranks, reporters: Reporters
) -> Iterator[list[ResultRow]]:
    """Keeps ``status.json`` up to date and reports the outcome, however the run ends; yields a list for the results."""
    rows: list[ResultRow] = []

    def start() -> None:
        started = folder.read_status().get("started") or now()
        record = {"experiment": experiment.name, "demo": bool(experiment.demo), "processes": ranks.world_size}
        record["job"] = ranks.job
        folder.write_status(status="running", message="", started=started, finished=None, results=None, **record)

    def end(status: str, message: str) -> None:
        reporters.finish(Outcome(status, message, rows, _locations(folder, reporters.leaves)))
        # a run that is done has its report
        folder.write_status(status=status, message=message, finished=now(), results=len(rows))

    ranks.from_main(start)
    try:
        yield rows
    except StoppedOnRequest as stopped:
        message = str(stopped)
        ranks.from_main(lambda: end("stopped", message))  # all ranks stop together, and wait for the report
        with ranks.together():
            raise
    except KeyboardInterrupt:
        if ranks.is_main:
            end("stopped", "interrupted; run again with --resume to continue from the last checkpoint")
        raise
    except RunnerError as error:
        if ranks.is_main:  # the others may be gone
            end("failed", str(error))
        raise
    except BaseException as error:
        if ranks.is_main:  # those of the others are on their standard error
            write_text(folder.path / "traceback.txt", traceback.format_exc())
            end("failed", f"{type(error).__name__}: {error}")
        raise
    ranks.from_main(lambda: end("done", ""))


def _choose_folder(
    experiment: Experiment, continues: bool, folder: Path | None, claim: ExitStack, job: str | None = None
) -> tuple[RunFolder, bool]:
    """The folder to work in, claimed for this process unless the run is done, and whether it is new.

    Raises:
        ConfigError: the run to continue has another configuration.
        DataError: another process is at work in it.
    """
    earlier, is_own = _earlier(experiment, continues, folder, job)
    if earlier is None:
        for unstarted in unstarted_runs(experiment.runs_root, experiment.name):
            if is_abandoned(unstarted) or RunFolder(unstarted).read_status().get("status") == "stopped":
                shutil.rmtree(unstarted, ignore_errors=True)
        new = create_run_folder(experiment.runs_root, experiment.name)
        claim.enter_context(claimed(new.path))
        return new, True
    if folder is None:
        _restore_config(experiment, earlier)
    refuse_damaged(earlier.path, earlier.config.name, "Put it back as it was, or start anew without --resume")
    continued = _as_started(experiment, earlier)
    changed = changed_options(
        earlier.config.read_text(encoding="utf-8"), continued.as_yaml(), reads_pictures=continued.reads_pictures
    )
    if changed:
        raise ConfigError(
            [
                f"{earlier.path} was started with another configuration, so it cannot be continued with this one:",
                *(f"  {change}" for change in changed),
                f"Continue it as it was (runner run {earlier.path} --resume), or start anew without --resume.",
            ]
        )
    if earlier.read_status().get("status") != "done":
        claim.enter_context(claimed(earlier.path, waits=is_own))
        remove_left_over(earlier.path)
    return earlier, False


def _restore_config(experiment: Experiment, earlier: RunFolder) -> None:
    """Writes the configuration of a run again where it is damaged, and the experiment is what it was made of."""
    folder, name = earlier.path, earlier.config.name
    if not is_damaged(folder, name):
        return
    chosen = experiment.train.precision
    for precision in ("fp32", "bf16") if chosen == "auto" else (chosen,):
        text = with_precision(experiment, precision).as_yaml()
        if is_known(folder, name, text_hash(text)):
            write_text(earlier.config, text)


def _earlier(
    experiment: Experiment, continues: bool, folder: Path | None, job: str | None
) -> tuple[RunFolder | None, bool]:
    """The run to continue, if there is one that has started, and whether this very job has begun it."""
    own = None if job is None else run_folder_of(experiment.runs_root, experiment.name, job)
    earlier = own
    if own is None and continues:
        earlier = RunFolder(folder) if folder else latest_run_folder(experiment.runs_root, experiment.name)
    return (None if earlier is None or not earlier.config.is_file() else earlier), own is not None


def _as_started(experiment: Experiment, folder: RunFolder) -> Experiment:
    """The experiment in the precision of the run that it continues, where it leaves the choice to the device."""
    if experiment.train.precision != "auto":
        return experiment
    started: Any = parse_yaml(folder.config.read_text(encoding="utf-8")).data
    return with_precision(experiment, started["train"]["precision"])


def changed_options(before: str, after: str, *, reads_pictures: bool = False) -> list[str]:
    """The options that differ between two resolved configurations (YAML) and can change a result.

    Args:
        reads_pictures: whether the backbone does, so that the folder of pictures counts.
    """
    old, new = (_without_empty(flat_options(parse_yaml(text).data)) for text in (before, after))
    pauses = any(key.startswith("train.stop_and_go.") for key in old)
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not _may_change(key, reads_pictures, pauses)
    ]


def _without_empty(options: Mapping[str, Any]) -> dict[str, Any]:
    """An empty list is as an option that is not there: older runs have not all of today's lists."""
    return {key: value for key, value in options.items() if value != []}


def _may_change(key: str, reads_pictures: bool, pauses: bool) -> bool:
    if key.endswith(".dataset.pictures"):  # what a report shows, where the model does not read them
        return not reads_pictures
    if key.endswith(".best_score"):  # what is the best of what is there, unless it also chose the steps
        return not pauses
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in _MAY_CHANGE_ON_RESUME)


def _profiled(run: Run, wanted: bool, total_steps: int) -> Any:
    if not wanted or not run.ranks.is_main:
        return nullcontext()
    from vlrun.reporting.profiler import profile

    return profile(run.folder.path / "traces", run.device, total_steps)


def _locations(folder: RunFolder, reported: Mapping[str, str]) -> list[tuple[str, str]]:
    """The labelled files and folders that the run leaves; reporters may write theirs after this."""
    places = {
        "run folder": folder.path,
        **{label: folder.path / path for label, path in reported.items()},
        "predictions": folder.path / "predictions",
        "submission files": folder.path / "submission",
        "best checkpoint": folder.checkpoints / "best",
        "last checkpoint": folder.checkpoints / "last",
        "profiler traces": folder.path / "traces",
    }
    return [(label, str(path)) for label, path in places.items() if label in reported or path.exists()]

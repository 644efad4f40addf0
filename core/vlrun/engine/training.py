"""Training, from the first step to the last: when a task mines, when a checkpoint is written, who evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from vlrun.engine.callbacks import callback_state, load_callback_state
from vlrun.engine.checkpoints import Progress
from vlrun.engine.evaluation import evaluate_split
from vlrun.engine.mixing import PlannedStep
from vlrun.engine.run import TaskRun
from vlrun.engine.step_feed import loaded_steps
from vlrun.engine.steps import check_finite, first_step, train_step
from vlrun.engine.trainer import Trainer
from vlrun.errors import StoppedOnRequest
from vlrun.seeds import derive_seed


class Profiler(Protocol):
    """Records what a few steps spend their time on."""

    def step(self) -> None:
        """Called after every step."""


def train(trainer: Trainer, profiler: Profiler | None = None) -> None:
    """Trains from ``run.step`` to the end: epochs, each followed by a checkpoint and, when due, an evaluation."""
    run = trainer.run
    evaluate_if_due(trainer)  # a run may have been stopped between the last step of an epoch and its evaluation
    while run.step < trainer.total_steps:
        active = trainer.active(run.step // trainer.mix.steps_per_epoch)
        if not any(active[-1]):
            run.reporters.note("every task has stopped improving; training ends here")
            return
        _note_pauses(trainer, active)
        train_epoch(trainer, active, profiler)


def train_epoch(trainer: Trainer, active: Sequence[Sequence[bool]], profiler: Profiler | None = None) -> None:
    """A joint epoch from ``run.step`` on: segments of steps, checkpoints, and at the end an evaluation.

    Args:
        active: for this epoch and each before it, which tasks train.

    Raises:
        StoppedOnRequest: a signal asked for it; a checkpoint was written.
        NonFiniteLossError: with the ids of the batch; no checkpoint holds that step.
    """
    run, config = trainer.run, trainer.run.experiment.train
    epoch, end = len(active) - 1, len(active) * trainer.mix.steps_per_epoch
    planned = [step for step in trainer.mix.steps(epoch, active) if step.position >= run.step]
    plan = derive_seed(*(number for step in planned for number in (step.position, step.task_index)))  # a digest
    run.ranks.check_agreement(plan, f"the steps of epoch {epoch + 1}")
    trainer.window.restart()  # before it there was no step, but perhaps an evaluation
    for segment in segments(planned):
        check_finite(trainer)  # before a task mines with the weights
        with _checkpoint_if_stopped(trainer), trainer.window.paused():
            start_task_epochs(trainer, segment)  # retrieval may mine here, for hours
        run.model.train()
        feed = loaded_steps(trainer, segment)
        step = first_step(trainer, feed)
        while step is not None:
            done = train_step(trainer, step, feed)
            trainer.window.add(done.record)
            run.step, step = done.record.number, done.following
            if profiler is not None:
                profiler.step()
            if run.step % config.log_every == 0:
                report_steps(trainer)
            if done.stop:
                save_checkpoint(trainer)
                raise StoppedOnRequest(f"stopped on request after step {run.step}; run again with --resume to continue")
            if config.checkpoint_every and run.step % config.checkpoint_every == 0 and run.step != end:
                save_checkpoint(trainer)
    run.step = end  # past the places of paused tasks
    save_checkpoint(trainer)
    evaluate_if_due(trainer)


def segments(planned: Sequence[PlannedStep]) -> Iterator[list[PlannedStep]]:
    """Cuts the steps wherever a task begins an epoch of its own: it must know before its batches are made."""
    segment: list[PlannedStep] = []
    for step in planned:
        if segment and step.step == 0:
            yield segment
            segment = []
        segment.append(step)
    if segment:
        yield segment


def start_task_epochs(trainer: Trainer, segment: Sequence[PlannedStep]) -> None:
    """Tells each task of a segment which of its own epochs begins or goes on."""
    for task, epoch in {step.task_index: step.epoch for step in segment}.items():
        trainer.start_epoch(task, epoch)


@contextmanager
def _checkpoint_if_stopped(trainer: Trainer) -> Iterator[None]:
    """Writes a checkpoint when a signal stops slow work inside, so that no step is lost."""
    try:
        yield
    except StoppedOnRequest:
        save_checkpoint(trainer)
        raise


def evaluate_if_due(trainer: Trainer) -> None:
    """Evaluates and chooses the best checkpoint, if an epoch has just ended that is due and not evaluated yet."""
    run, config = trainer.run, trainer.run.experiment.train
    if not any(task.validation_split for task in run.tasks):
        return  # all ground truth is hidden
    epochs_done, rest = divmod(run.step, trainer.mix.steps_per_epoch)
    if rest or not epochs_done or trainer.evaluations.has(run.step):
        return
    if epochs_done % config.evaluate_every == 0 or epochs_done == config.epochs:
        _evaluate_and_choose_best(trainer)


def _evaluate_and_choose_best(trainer: Trainer) -> None:
    """Scores the validation split of each task; marks the best checkpoint of each and that of all together."""
    run = trainer.run
    epoch = run.step // trainer.mix.steps_per_epoch
    names = []
    for task_run in run.tasks:
        split = task_run.validation_split
        if split is not None:
            with trainer.evaluated_weights():
                report = evaluate_split(run, task_run, split, epoch=epoch, stop=trainer.stop)
            trainer.evaluations.add(run.step, task_run.name, split, report.scores)
            names.append(task_run.name)
            with run.ranks.together():
                for callback in trainer.callbacks:
                    callback.after_evaluation(report, run.model)

    def choose_best() -> None:
        trainer.checkpoints.mark_best(trainer.evaluations.best_step(names))
        if len(names) > 1:
            for name in names:
                trainer.checkpoints.mark_best(trainer.evaluations.best_step([name]), name)
        trainer.evaluations.write()  # after the links: a run that is killed in between evaluates again
        trainer.checkpoints.prune(run.experiment.train.keep_checkpoints)

    run.ranks.from_main(choose_best)


def _note_pauses(trainer: Trainer, active: Sequence[Sequence[bool]]) -> None:
    """Reports which tasks pause or resume with this epoch."""
    before = active[-2] if len(active) > 1 else [True] * len(trainer.run.tasks)
    for task_run, was, now in zip(trainer.run.tasks, before, active[-1], strict=True):
        if was != now:
            why = "resumes: its score has fallen back" if now else "pauses: its score has stopped improving"
            trainer.run.reporters.note(f"epoch {len(active)}: task {task_run.name} {why}")


def report_steps(trainer: Trainer) -> None:
    """Checks the last step, then reports all steps since the last report."""
    check_finite(trainer)
    trainer.window.report()


def save_checkpoint(trainer: Trainer) -> None:
    """Reports the steps so far, then writes weights, optimiser and progress; the main rank writes, the others wait.

    Raises:
        NonFiniteLossError: the last step was not finite, so nothing is saved.
    """
    run = trainer.run
    report_steps(trainer)

    def write() -> None:
        progress = Progress(run.step, run.identity(), trainer.scaler.state_dict())
        meanings, named = run.head_meanings(), run.named_heads()
        state = callback_state(trainer.callbacks)
        trainer.checkpoints.save(progress, run.model, trainer.optimizer, meanings, named, trainer.average, state)
        trainer.checkpoints.prune(run.experiment.train.keep_checkpoints)
        run.folder.write_status(step=run.step, total_steps=trainer.total_steps)

    run.ranks.from_main(write)
    trainer.window.restart()


def resume(trainer: Trainer) -> bool:
    """Continues from the newest undamaged checkpoint of the run folder; False if there is none.

    Raises:
        CheckpointError: it was written with another vocabulary, model or meaning of a head.
    """
    run = trainer.run
    checkpoint, refused = run.ranks.from_main(trainer.checkpoints.tidied)
    for reason in refused:
        run.reporters.note(f"{reason}; the one before it is used")
    if checkpoint is None:
        return False
    with run.ranks.together():
        run.check_checkpoint(checkpoint)
        if trainer.average is not None:
            checkpoint.load_model(run.model)
            trainer.average.take()
        checkpoint.load_trained(run.model)
        checkpoint.load_optimizer(trainer.optimizer, run.model)
        load_callback_state(trainer.callbacks, checkpoint.callback_state())
        if checkpoint.progress.scaler:
            trainer.scaler.load_state_dict(dict(checkpoint.progress.scaler))
    run.step = checkpoint.progress.step
    with run.ranks.together():
        remark = trainer.evaluations.read(up_to=run.step)
    if remark:
        run.reporters.note(remark)
    return True


def load_final_weights(trainer: Trainer, task_run: TaskRun) -> str:
    """Loads the final checkpoint of a task into the model; returns its name in results."""
    run, checkpoints = trainer.run, trainer.checkpoints
    is_best = run.experiment.train.final_checkpoint == "best"
    checkpoint = run.ranks.from_main(lambda: checkpoints.best(task_run.name) if is_best else checkpoints.newest()[0])
    if checkpoint is None:
        return "as built"
    with run.ranks.together():
        checkpoint.load_model(run.model)
    return f"{f'best on {next(iter(task_run.splits))}' if is_best else 'last'} (step {checkpoint.progress.step})"

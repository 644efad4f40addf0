"""The check of tasks."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Mapping, Sequence
from math import isclose
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vlrun.data.loading import BatchMaker
from vlrun.engine.global_batch import has_batch_loss
from vlrun.engine.model import TaskModel
from vlrun.engine.step_view import StepView
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Example, Prediction, RegionBatch
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch, in_full_precision, on_cpu

_TOLERANCE = 1e-5
_TASK = "task"


def check_task(
    task: Task[Any],
    backbone: Backbone,
    examples: Sequence[Example[Any]],
    regions: RegionBatch,
    *,
    may_read_values: bool = False,
    companions: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Batch:
    """Asserts what the core relies on in a task, and returns the batch that was used; needs at least two examples.

    The task is picklable; losses are sums, so those of two halves of a batch add up; losses and counts have the same
    names; every example gets one prediction, in order, that JSON can express; the head gets a gradient; its named parts
    are within it, mean what JSON can express and take their own weights; forward pass, loss and backward pass read no
    value of a tensor and make none on another device, so that a GPU never waits (``may_read_values`` allows it, at that
    price). Losses of the global batch are scalars, have names of their own and do not depend on the order of the items.

    Args:
        companions: networks that stand in for those of ``Task.companions``.
    """
    batch = make_batch(task, backbone, examples, regions)
    head = task.build_head(backbone)
    step = StepView(TaskModel(backbone, {_TASK: head}).eval(), _TASK, companions=companions)
    whole, counts = _losses(task, step, batch)
    assert set(whole) == set(counts), (
        f"loss and loss_counts must name the same losses: {', '.join(whole)}, and {', '.join(counts)}"
    )
    for name, value in whole.items():
        assert value.ndim == 0, f"loss '{name}' must be a scalar, and has the shape {tuple(value.shape)}"

    parts = [make_batch(task, backbone, examples[part], regions, part.start) for part in _halves(len(examples))]
    for name, value in whole.items():
        halves = [_losses(task, step, part) for part in parts]
        total = sum(losses[name].item() for losses, _ in halves)
        assert abs(total - value.item()) <= _TOLERANCE * max(1.0, abs(total)), f"loss '{name}' must be a sum over items"
        count = sum(float(part_counts[name]) for _, part_counts in halves)
        assert isclose(float(counts[name]), count, rel_tol=_TOLERANCE), f"count '{name}' must add up"

    terms = [value / max(1.0, float(counts[name])) for name, value in whole.items()]
    terms += _batch_losses(task, step, batch, parts, known=whole)
    assert terms, "the task has no loss"
    torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
    assert any(parameter.grad is not None for parameter in head.parameters()), "the head gets no gradient"
    _check_named_heads(task, head)
    if not may_read_values:
        _check_nothing_is_read(task, step, batch)
    with torch.inference_mode():
        decoded = task.decode(in_full_precision(head.eval()(backbone.eval()(batch.encoding))), batch)
        predictions = task.predict(on_cpu(decoded), batch)
    _check_predictions(predictions, examples)
    return batch


def _check_predictions(predictions: Sequence[Prediction], examples: Sequence[Example[Any]]) -> None:
    predicted, asked = ([item.id for item in items] for items in (predictions, examples))
    assert predicted == asked, f"predict must give one prediction for each example, in order: {predicted}, not {asked}"
    for prediction in predictions:
        try:
            json.dumps(prediction.as_json(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(
                f"the prediction for '{prediction.id}' cannot be written to JSON ({error}): {dict(prediction.fields)}"
            ) from error


def _check_named_heads(task: Task[Any], head: nn.Module) -> None:
    parts = {id(module) for module in head.modules()}
    for name, named in task.named_heads(head).items():
        assert id(named.module) in parts, f"head '{name}' must be a part of what build_head gives"
        meaning = json.loads(json.dumps(dict(named.meaning), allow_nan=False))
        assert meaning == named.meaning, f"the meaning of head '{name}' must be the same after JSON"
        own = named.module.state_dict()
        adapted, _ = named.adapt(own, meaning)
        assert not adapted or adapted.keys() == own.keys(), f"head '{name}' must take weights of its own kind whole"


def make_batch(
    task: Task[Any], backbone: Backbone, examples: Sequence[Example[Any]], regions: RegionBatch, first: int = 0
) -> Batch:
    """Makes a batch as the loader does, and masks what the task masks.

    Args:
        regions: must hold every image of the examples, and those that the task reads besides.
        first: position of the first example, from which what is drawn follows.
    """
    dataset, reader = _Following(examples, first), _RegionsInMemory(regions)
    task = pickle.loads(pickle.dumps(task))  # noqa: S301 - workers get a copy of the task like this
    maker = BatchMaker(task, dataset, reader, backbone.pair_encoder(20), 0, vocabulary=backbone.wordpiece)
    return maker.made([(0, position) for position in range(first, first + len(examples))])


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count // 2), slice(count // 2, count)


class _Following(Dataset[Any]):
    """Examples that follow others, which are not there."""

    def __init__(self, examples: Sequence[Example[Any]], first: int) -> None:
        self.split, self.protocol = "given", {}
        self._examples, self._first = examples, first

    def __len__(self) -> int:
        return self._first + len(self._examples)

    def __getitem__(self, position: int) -> Example[Any]:
        return self._examples[position - self._first]


class _RegionsInMemory:
    """A store of the regions that a test made."""

    def __init__(self, regions: RegionBatch) -> None:
        self._regions = regions

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        return self._regions.take([self._regions.image_ids.index(image_id) for image_id in image_ids])

    read_with_classes = read


def _losses(task: Task[Any], step: StepView, batch: Batch) -> tuple[dict[str, Tensor], Any]:
    return task.loss(task.training_outputs(batch, step), batch.targets), task.loss_counts(batch.targets)


def _batch_losses(
    task: Task[Any], step: StepView, batch: Batch, parts: Sequence[Batch], known: Mapping[str, Tensor]
) -> list[Tensor]:
    """The losses of the global batch, which must not depend on the order in which its parts come."""

    def rows_of(batch: Batch) -> Mapping[str, Tensor]:
        return task.shared_rows(task.training_outputs(batch, step), batch.targets)

    if not has_batch_loss(task):
        return []
    losses = task.batch_loss(rows_of(batch), step)
    assert losses.keys().isdisjoint(known), "loss and batch_loss must have other names"
    assert all(value.ndim == 0 for value in losses.values()), "losses of the global batch must be scalars"
    first, second = map(rows_of, parts)
    turned = {name: torch.cat([second[name], first[name]]).detach() for name in first}
    again = task.batch_loss(turned, step)
    for name, value in losses.items():
        is_near = isclose(float(value.detach()), float(again[name].detach()), rel_tol=1e-4, abs_tol=_TOLERANCE)
        assert is_near, f"loss '{name}' of the global batch must not depend on the order of its items"
    return list(losses.values())


def _check_nothing_is_read(task: Task[Any], step: StepView, batch: Batch) -> None:
    """Takes a step on torch's device without memory, where values cannot be read and other devices do not fit."""
    network, moved = copy.deepcopy(step.model).to("meta").train(), batch.to("meta")
    companions = {name: copy.deepcopy(companion).to("meta") for name, companion in step.companions.items()}
    view = StepView(network, _TASK, companions=companions)
    try:
        outputs = task.training_outputs(moved, view)
        terms = list(task.loss(outputs, moved.targets).values())
        if has_batch_loss(task):
            rows = task.shared_rows(outputs, moved.targets)
            terms += task.batch_loss(rows, view).values()
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        if has_batch_loss(task):
            task.after_update({name: tensor.detach() for name, tensor in rows.items()}, view)
    except (NotImplementedError, RuntimeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if "/torch/" not in frame.filename][-1]
        raise AssertionError(
            f"{place.filename}:{place.lineno}: forward pass and loss must not read values of tensors (item, tolist, "
            f"boolean indices, branches on them) nor mix devices: {str(error).splitlines()[0]}"
        ) from error

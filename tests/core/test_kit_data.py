"""The kit's checks of datasets and metrics: what is right passes, and each mistake is caught with a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlrun import DataError, Dataset, Example, Metric, Prediction, Score
from vlrun.blocks.predictions import listed, mismatches
from vlrun.testing import check_dataset, check_metric


class Counts(Dataset[Any]):
    """How many dogs are there?"""

    split = "val"

    def __init__(self) -> None:
        self.protocol: Any = {"dataset": "dogs", "limit": 3}
        self.examples: list[Any] = [
            Example(name, "How many dogs?", (f"image{name}",), {"count": np.array([index + 1.0, math.nan])})
            for index, name in enumerate("abc")
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[Any]:
        return self.examples[index]


class Boundless(Counts):
    def __getitem__(self, index: int) -> Example[Any]:
        return self.examples[index % len(self.examples)]


class Silent(Counts):
    def __getitem__(self, index: int) -> Example[Any]:
        if index >= len(self.examples):
            raise IndexError
        return self.examples[index]


class Keyed(Counts):
    def __getitem__(self, index: int) -> Example[Any]:
        return dict(enumerate(self.examples))[index]


class TooLong(Counts):
    def __len__(self) -> int:
        return len(self.examples) + 1


class IteratesLess(Counts):
    def __iter__(self) -> Iterator[Example[Any]]:
        return iter(self.examples[1:])


class IteratesBackwards(Counts):
    def __iter__(self) -> Iterator[Example[Any]]:
        return iter(self.examples[::-1])


class Changing(Counts):
    reads = 0

    def __getitem__(self, index: int) -> Example[Any]:
        self.reads += 1
        return replace(super().__getitem__(index), text=f"How many dogs? {self.reads // 7}")


class LacksImages(Counts):
    def image_ids(self) -> list[str]:
        return ["imagea", "imageb"]


class NamesImagesOnce(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.ids = iter(["imagea", "imageb", "imagec"])

    def image_ids(self) -> Iterator[str]:
        return self.ids


class Unpicklable(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.read = lambda index: self.examples[index]


class ForgetsExamples(Counts):
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "examples": self.examples[:1]}


class ForgetsAll(Counts):
    def __getstate__(self) -> dict[str, Any]:
        return {"protocol": self.protocol}


class ForgetsItsSplit(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.split = "test"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "split"}


def with_(**changes: Any) -> Counts:
    """A dataset with other attributes."""
    dataset = Counts()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def with_example(**changes: Any) -> Counts:
    """A dataset whose second example has other fields."""
    dataset = Counts()
    dataset.examples[1] = replace(dataset.examples[1], **changes)
    return dataset


def test_a_right_dataset_passes() -> None:
    check_dataset(Counts())
    check_dataset(Counts(), images={"imagea", "imageb", "imagec", "imaged"})


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (with_(split=""), "split must be the name of the split, such as 'val', and is ''"),
        (with_(split=1), "split must be the name of the split"),
        (with_(protocol=None), "the protocol of the dataset must be a dict, and is None"),
        (with_(protocol={"limit": 3}), "the protocol must name the dataset"),
        (with_(protocol={"dataset": "dogs", 3: 4}), "the protocol of the dataset has 3 for a name"),
        (with_(protocol={"dataset": "dogs", "when": {1}}), r"'when' .* cannot be written to JSON: \{1\}"),
        (with_(protocol={"dataset": "dogs", "mean": math.nan}), "'mean' .* cannot be written to JSON: nan"),
        (with_(protocol={"dataset": "dogs", "size": (1, 2)}), r"'size' .* is \(1, 2\), and \[1, 2\] once read"),
        (with_(examples=[]), "the dataset is empty"),
        (TooLong(), "len is 4, but there is no example 3"),
        (IteratesLess(), "len is 3, but iterating gives 2 examples"),
        (IteratesBackwards(), "iterating gives other examples than reading by position"),
        (with_(examples=[{"id": "a"}]), r"example 0 must be an Example, and is \{'id': 'a'\}"),
        (with_example(id=7), "example 1: the id must be text, and is 7"),
        (with_example(id=""), "example 1: the id must be text"),
        (with_example(id="a"), "ids must be unique, and several examples have these: a"),
        (with_example(text=None), r"example 1 \('b'\): the text must be a str, and is None"),
        (with_example(image_ids=()), "image_ids must be a tuple of at least one id"),
        (with_example(image_ids="imageb"), "image_ids must be a tuple of at least one id, and is 'imageb'"),
        (with_example(image_ids=(7,)), "image ids must be text, and one is 7"),
        (with_example(image_ids=("val/b.jpg",)), "image 'val/b.jpg' must be written 'b'"),
        (LacksImages(), "must name all images of the examples, and lacks these: imagec"),
        (NamesImagesOnce(), "lacks these when it is called again: imagea, imageb, imagec"),
        (Boundless(), r"there are 3 examples, so dataset\[3\] must raise an IndexError that says so; it is Example"),
        (Silent(), r"dataset\[3\] must raise an IndexError that says so; its message is empty"),
        (Keyed(), "must raise an IndexError that says so; it raises KeyError: 3"),
        (Changing(), "example . is another one when it is read again"),
        (Unpicklable(), "cannot be pickled once it was read"),
        (ForgetsExamples(), "a pickled copy, as loader workers get it, has other examples"),
        (ForgetsAll(), "a pickled copy cannot be read: AttributeError"),
        (ForgetsItsSplit(), "a pickled copy, as loader workers get it, has another split or protocol"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Dataset) else value[:40],
)
def test_a_mistake_in_a_dataset_is_said(dataset: Counts, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_dataset(dataset)


def test_images_that_are_not_known_are_said() -> None:
    with pytest.raises(AssertionError, match="the examples have images that are not known: imageb"):
        check_dataset(Counts(), images={"imagea", "imagec"})


class Accuracy(Metric):
    """The share of right counts."""

    unit: Any = "%"

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> Any:
        self.refuse(predictions, dataset)
        said = {prediction.id: prediction.fields.get("count") for prediction in predictions}
        hits = [said.get(example.id) == example.target["count"][0] for example in dataset]
        return self.scores(hits, {**dataset.protocol, "split": dataset.split}, predictions)

    def refuse(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> None:
        wrong = [prediction.id for prediction in predictions if type(prediction.fields.get("count")) is not int]
        problems = [
            *mismatches(predictions, [example.id for example in dataset], split=dataset.split),
            *listed(wrong, "have no count", split=dataset.split),
        ]
        if problems:
            raise DataError(problems)

    def scores(self, hits: Sequence[bool], protocol: Any, predictions: Sequence[Prediction]) -> Any:
        errors = Score("errors", hits.count(False), "", len(hits), protocol, higher_is_better=False)
        return [Score.mean("accuracy", hits, protocol, primary=True), errors]


class Changed(Accuracy):
    """Its first score has other fields."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def scores(self, hits: Sequence[bool], protocol: Any, predictions: Sequence[Prediction]) -> Any:
        first, *others = super().scores(hits, protocol, predictions)
        return [replace(first, **self.changes), *others]


class Returns(Accuracy):
    def __init__(self, scores: Any) -> None:
        self.returned = scores

    def scores(self, *_: Any) -> Any:
        return self.returned


class Destroys(Accuracy):
    def scores(self, hits: Sequence[bool], protocol: Any, predictions: Sequence[Prediction]) -> Any:
        predictions[0].fields["hit"] = True  # type: ignore[index]
        return super().scores(hits, protocol, predictions)


class Sorts(Accuracy):
    def scores(self, hits: Sequence[bool], protocol: Any, predictions: Sequence[Prediction]) -> Any:
        predictions.sort(key=lambda prediction: prediction.id, reverse=True)  # type: ignore[attr-defined]
        return super().scores(hits, protocol, predictions)


class ScoresTheFirst(Accuracy):
    """The value, the standard error, the protocol or the name of its first score depends on the order."""

    def __init__(self, field: str) -> None:
        self.field = field

    def scores(self, hits: Sequence[bool], protocol: Any, predictions: Sequence[Prediction]) -> Any:
        first, *others = super().scores(hits, protocol, predictions)
        name = predictions[0].id
        values = {"value": ord(name), "standard_error": ord(name), "protocol": {**protocol, "x": name}, "name": name}
        return [replace(first, **{self.field: values[self.field]}), *others]


class Lenient(Accuracy):
    """Refuses only predictions with so many ids, and only fields of these kinds."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused

    def refuse(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> None:
        ids, known = [prediction.id for prediction in predictions], {example.id for example in dataset}
        values = [prediction.fields.get("count", "none") for prediction in predictions]
        findings = {
            "missing": known - set(ids),
            "repeated": [name for name in ids if ids.count(name) > 1],
            "unknown": set(ids) - known,
            "empty": ["count"] * values.count("none"),
            "null": ["count"] * values.count(None),
            "another": [value for value in values if isinstance(value, dict)],
        }
        for what, found in findings.items():
            if found and what in self.refused:
                raise DataError(f"{what}: {found}")


class Vague(Accuracy):
    def refuse(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> None:
        if len(predictions) != len(dataset):
            raise DataError("the file does not fit")


class CrashesOnOneField(Accuracy):
    def scores(self, hits: Sequence[bool], protocol: Any, predictions: Sequence[Prediction]) -> Any:
        assert sum(prediction.fields.get("sure", 0) for prediction in predictions) >= 0
        return super().scores(hits, protocol, predictions)


class Crashes(Accuracy):
    def refuse(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> None:
        said = {prediction.id: prediction.fields for prediction in predictions}
        assert all(said[example.id]["count"] for example in dataset)


DATASET = Counts()
PREDICTIONS = tuple(Prediction(name, {"count": count}) for name, count in (("a", 1), ("b", 5), ("c", 3)))


def test_a_right_metric_passes_and_its_scores_come_back() -> None:
    accuracy, errors = check_metric(Accuracy(), DATASET, PREDICTIONS)
    assert accuracy.value == pytest.approx(200 / 3)
    assert (errors.name, errors.value) == ("errors", 1)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (Destroys(), "the metric changes the predictions"),
        (Sorts(), "the metric changes the predictions"),
        (Returns([]), r"a metric returns a list of scores, not \[\]"),
        (Returns({"accuracy": 1.0}), "a metric returns a list of scores, not"),
        (Returns([1.0]), "a metric returns a list of scores, and in it is 1.0"),
        (Changed(name=""), "a score must have a name, not ''"),
        (Changed(name="errors"), "each score needs a name of its own: errors, errors"),
        (Changed(unit=None), "the unit of score 'accuracy' must be '%' or empty, and is None"),
        (Changed(value=math.nan), "the value of score 'accuracy' must be a finite number, and is nan"),
        (Changed(value=math.inf), "the value of score 'accuracy' must be a finite number, and is inf"),
        (Changed(value=np.float32(1)), "the value of score 'accuracy' must be a finite number"),
        (Changed(count=0), "the count of score 'accuracy' must be the number of examples behind it, and is 0"),
        (
            Changed(standard_error=-1.0),
            "standard error of score 'accuracy' must be None or at least 0, and is -1.0",
        ),
        (Changed(standard_error=math.nan), "must be None or at least 0, and is nan"),
        (Changed(protocol={"limit": "none"}), "of score 'accuracy' says something else than dataset.protocol: limit"),
        (Changed(protocol={"dataset": {1}}), r"'dataset' .* score 'accuracy' cannot be written to JSON: \{1\}"),
        (Changed(primary=False), "exactly one score must be primary, and these are: none"),
        (Returns([Score(n, 1, "", 3, DATASET.protocol, primary=True) for n in "xy"]), "and these are: x, y"),
        (
            ScoresTheFirst("value"),
            "the order .*: value of 'accuracy' is 97, and in reversed order 99",
        ),
        (ScoresTheFirst("standard_error"), "must not depend on the order .*: standard_error of 'accuracy'"),
        (ScoresTheFirst("protocol"), "must not depend on the order of the predictions: 'accuracy' is"),
        (ScoresTheFirst("name"), "must not depend on the order of the predictions: a, errors become c, errors"),
        (Lenient(), "a missing prediction must be refused with a DataError, and is scored"),
        (Lenient("missing"), "a repeated prediction must be refused with a DataError, and is scored"),
        (Lenient("missing", "repeated"), "the prediction of an unknown id must be refused"),
        (Lenient("missing", "repeated", "unknown"), "a prediction without fields must be refused"),
        (Lenient("missing", "repeated", "unknown", "empty"), "fields that are null must be refused"),
        (Lenient("missing", "repeated", "unknown", "empty", "null"), "fields of another kind must be refused"),
        (Vague(), "the DataError about a missing prediction must name 'a'; it says: the file does not fit"),
        (Crashes(), "a missing prediction must be refused with a DataError, and raises KeyError: 'a'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Metric) else value[:40],
)
def test_a_mistake_in_a_metric_is_said(metric: Metric, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_metric(metric, DATASET, [Prediction(item.id, dict(item.fields)) for item in PREDICTIONS])


def test_a_metric_that_refuses_all_of_these_passes() -> None:
    check_metric(Lenient("missing", "repeated", "unknown", "empty", "null", "another"), DATASET, PREDICTIONS)


def test_a_single_field_is_refused_or_not_read() -> None:
    predictions = [replace(item, fields={**item.fields, "sure": 0.5}) for item in PREDICTIONS]
    check_metric(Accuracy(), DATASET, predictions)
    with pytest.raises(AssertionError, match="field 'sure' as None must be refused with a DataError, and raises TypeE"):
        check_metric(CrashesOnOneField(), DATASET, predictions)


def test_without_predictions_nothing_can_be_checked() -> None:
    with pytest.raises(AssertionError, match="there are no predictions"):
        check_metric(Accuracy(), DATASET, [])

"""The check of datasets."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from vlrun.errors import first_few
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Example, canonical_image_id
from vlrun.testing.values import check_protocol, is_same

_SHOWN_IDS = 5
_FAR_BEYOND = 1000


def check_dataset(dataset: Dataset[Any], images: Collection[str] | None = None) -> None:
    """Asserts what the core relies on in a dataset; it reads every example, so give it a small one.

    The split has a name; the protocol can be written to JSON and names the dataset; there are as many examples as
    ``len`` says, by position and in order, and an IndexError with a message beyond them; ids are text and unique;
    image ids are canonical, and ``image_ids()`` names all of them at each call; an example is the same each time it is
    read, also in the copy that a loader worker gets.

    Args:
        images: ids of the images that there are, if no example may have any other.
    """
    split = getattr(dataset, "split", None)
    assert split and isinstance(split, str), f"split must be the name of the split, such as 'val', and is {split!r}"
    check_protocol(getattr(dataset, "protocol", None), "the dataset")
    name = dataset.protocol.get("dataset")
    assert name and isinstance(name, str), "the protocol must name the dataset: {'dataset': NAME, ...}"

    examples = _examples(dataset)
    for index, example in enumerate(examples):
        _check_example(example, f"example {index}")
    repeated = [example_id for example_id, count in Counter(example.id for example in examples).items() if count > 1]
    assert not repeated, f"ids must be unique, and several examples have these: {_few(repeated)}"
    _check_images(dataset, examples, images)
    _check_the_end(dataset)
    for index in reversed(range(len(examples))):
        assert is_same(dataset[index], examples[index]), f"example {index} is another one when it is read again"
    _check_copy(dataset, examples)


def _examples(dataset: Dataset[Any]) -> list[Example[Any]]:
    count = len(dataset)
    assert count, "the dataset is empty, so there is nothing to check"
    examples = []
    for index in range(count):
        try:
            examples.append(dataset[index])
        except IndexError as error:
            raise AssertionError(f"len is {count}, but there is no example {index} ({error})") from error
    iterated = list(dataset)
    assert len(iterated) == count, f"len is {count}, but iterating gives {len(iterated)} examples"
    assert is_same(iterated, examples), "iterating gives other examples than reading by position"
    return examples


def _check_example(example: Any, place: str) -> None:
    assert isinstance(example, Example), f"{place} must be an Example, and is {example!r}"
    assert example.id and isinstance(example.id, str), f"{place}: the id must be text, and is {example.id!r}"
    place = f"{place} ('{example.id}')"
    assert isinstance(example.text, str), f"{place}: the text must be a str, and is {example.text!r}"
    assert example.image_ids and isinstance(example.image_ids, tuple), (
        f"{place}: image_ids must be a tuple of at least one id, and is {example.image_ids!r}"
    )
    for image_id in example.image_ids:
        assert image_id and isinstance(image_id, str), f"{place}: image ids must be text, and one is {image_id!r}"
        canonical = canonical_image_id(image_id)
        assert image_id == canonical, f"{place}: image '{image_id}' must be written '{canonical}' (canonical_image_id)"


def _check_images(dataset: Dataset[Any], examples: Sequence[Example[Any]], images: Collection[str] | None) -> None:
    needed = {image_id for example in examples for image_id in example.image_ids}
    for time in ("", " when it is called again"):
        missing = needed.difference(dataset.image_ids())
        assert not missing, f"image_ids() must name all images of the examples, and lacks these{time}: {_few(missing)}"
    unknown = needed.difference(needed if images is None else images)
    assert not unknown, f"the examples have images that are not known: {_few(unknown)}"


def _check_the_end(dataset: Dataset[Any]) -> None:
    for index in (len(dataset), len(dataset) + _FAR_BEYOND):
        rule = f"there are {len(dataset)} examples, so dataset[{index}] must raise an IndexError that says so"
        try:
            example = dataset[index]
        except IndexError as error:
            assert str(error), f"{rule}; its message is empty"
        except Exception as error:
            raise AssertionError(f"{rule}; it raises {type(error).__name__}: {error}") from error
        else:
            raise AssertionError(f"{rule}; it is {example!r}")


def _check_copy(dataset: Dataset[Any], examples: Sequence[Example[Any]]) -> None:
    try:
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own object
    except Exception as error:
        raise AssertionError(
            f"loader workers get a pickled copy of the dataset, and this one cannot be pickled once it was read: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        is_equal = is_same([copy[index] for index in range(len(copy))], examples)
    except Exception as error:
        raise AssertionError(f"a pickled copy cannot be read: {type(error).__name__}: {error}") from error
    assert is_equal, "a pickled copy, as loader workers get it, has other examples"
    is_equal = (copy.split, copy.protocol) == (dataset.split, dataset.protocol)
    assert is_equal, "a pickled copy, as loader workers get it, has another split or protocol"


def _few(ids: Collection[str]) -> str:
    return ", ".join(first_few(sorted(ids), _SHOWN_IDS))

"""Object tags: the names of what a detector saw, as words beside the text (Li et al. 2020, "Oscar"); no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.blocks.wordpiece import padded
from vlrun.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlrun.blocks.tokenizer import TextTokenizer
    from vlrun.interfaces.examples import RegionBatch


def read_class_names(path: Path) -> list[str]:
    """The names of detector classes, in the order of their ids; of several names of a class the first.

    Raises:
        DataError: there is no such file, or a line is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    if empty := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        raise DataError(
            f"{path}:{empty[0]}: the line is empty; each has the name of one class, in the order of their ids"
        )
    return [line.split(",")[0].strip() for line in lines]


@dataclass(frozen=True)
class ObjectTags:
    """Writes the classes of regions as one text for each image: their names in the order of the regions, then [SEP].

    Picklable, for loader workers.

    Attributes:
        names: of the classes, by id.
        max_tokens: longest row, [SEP] included; what is more is cut off.
    """

    tokenizer: TextTokenizer
    names: Sequence[str]
    max_tokens: int

    def encode(self, regions: RegionBatch) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Token ids (P, T) and mask (P, T) of P images; of hidden images [SEP] alone.

        Raises:
            DataError: the regions have no classes, or one that has no name.
        """
        if regions.hidden:
            return padded([[self.tokenizer.sep_id]] * len(regions.image_ids), self.tokenizer.pad_id, self.max_tokens, 1)
        if regions.class_ids is None:
            raise DataError(
                "the region features have no detector classes, from which object tags are made; import them from a "
                "source that has them"
            )
        rows = []
        for image_id, classes, real in zip(regions.image_ids, regions.class_ids, regions.mask, strict=True):
            own = classes[real]
            if len(own) and not 0 <= own.min() <= own.max() < len(self.names):
                wrong = next(number for number in own.tolist() if not 0 <= number < len(self.names))
                raise DataError(
                    f"image '{image_id}' has class {wrong}, and there are names of {len(self.names)} classes"
                )
            pieces = [piece for number in own.tolist() for piece in self._pieces[number]]
            rows.append([*pieces[: self.max_tokens - 1], self.tokenizer.sep_id])
        return padded(rows, self.tokenizer.pad_id, self.max_tokens, 1)

    @cached_property
    def _pieces(self) -> list[list[int]]:
        """The tokens of each name."""
        return [self.tokenizer.ids(name) for name in self.names]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pieces"}

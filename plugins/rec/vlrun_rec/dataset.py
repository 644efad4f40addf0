"""Annotation files -> examples."""

from __future__ import annotations

from vlrun import DataError, Dataset, DatasetConfig, Example, Referent
from vlrun.annotations import AnnotationFile
from vlrun_rec.records import ReferringExpression

_HASH_LENGTH = 12


class ReferringExpressions(Dataset[Referent]):
    """One split of RefCOCO, RefCOCO+ or RefCOCOg: every expression is an example."""

    def __init__(self, config: DatasetConfig, split: str, split_by: str) -> None:
        """Opens the split.

        Raises:
            DataError: its file is missing, empty, or was split by somebody else.
        """
        self.split = split
        self._file = AnnotationFile(config.split_file(split))
        found = self._file.read(0, ReferringExpression).split_by
        if found is not None and found != split_by:
            raise DataError(
                f"{self._file.path}: {config.name} split by '{found}', but the experiment asks for split_by "
                f"'{split_by}'. Change that option, or build other annotations into another folder"
            )
        self.protocol = {
            "dataset": config.name,
            "split_by": split_by,
            "annotations": self._file.path.name,
            "annotations_sha256": self._file.sha256[:_HASH_LENGTH],
        }

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> Example[Referent]:
        record = self._file.read(index, ReferringExpression)
        referent = Referent(record.box, record.height, record.width, record.ref_id)
        return Example(record.id, record.text, (record.image,), referent)

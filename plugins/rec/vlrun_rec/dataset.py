"""Annotation files -> examples."""

from __future__ import annotations

from vlrun import DataError, Example, Referent
from vlrun.data.annotations import AnnotatedDataset
from vlrun_rec.config import RefCocoConfig, RefCocogConfig
from vlrun_rec.records import ReferringExpression


class ReferringExpressions(AnnotatedDataset[Referent, ReferringExpression]):
    """One split of RefCOCO, RefCOCO+ or RefCOCOg: every expression is an example."""

    record = ReferringExpression

    def __init__(self, config: RefCocoConfig | RefCocogConfig, split: str) -> None:
        """Opens the split.

        Raises:
            DataError: its file is missing or empty, or has other splits than ``config.split_by``.
        """
        super().__init__(config, split)
        split_by = config.split_by
        actual = self.file.read(0, ReferringExpression).split_by
        if actual is not None and actual != split_by:
            raise DataError(
                f"{self.file.path}: {config.name} split by '{actual}', but the experiment asks for split_by "
                f"'{split_by}'. Change that option, or build other annotations into another folder"
            )
        self.protocol = {"dataset": config.name, "split_by": split_by, **self.protocol}

    def example_of(self, record: ReferringExpression) -> Example[Referent]:
        referent = Referent(record.box, record.height, record.width, record.ref_id)
        return Example(record.id, record.text, (record.image,), referent)

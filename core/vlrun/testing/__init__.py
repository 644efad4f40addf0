"""Checks for plugin authors to call from their tests.

Each ``check_...`` asserts what the core relies on, and says in a sentence what does not hold; ``private_imports`` finds
imports of what is private. ``StubBackbone``, ``make_regions``, ``make_pictures``, ``make_batch`` and ``run_ranks`` are
for tests to build with.
"""

from vlrun.testing.backbone import check_backbone
from vlrun.testing.callback import check_callback
from vlrun.testing.dataset import check_dataset
from vlrun.testing.metric import check_metric
from vlrun.testing.plugin import PUBLIC, check_plugin, private_imports
from vlrun.testing.ranks import run_ranks
from vlrun.testing.reporter import check_reporter
from vlrun.testing.stubs import StubBackbone, make_pictures, make_regions
from vlrun.testing.task import check_task, make_batch
from vlrun.testing.training import check_optimizer, check_schedule

__all__ = [
    "PUBLIC",
    "StubBackbone",
    "check_backbone",
    "check_callback",
    "check_dataset",
    "check_metric",
    "check_optimizer",
    "check_plugin",
    "check_reporter",
    "check_schedule",
    "check_task",
    "make_batch",
    "make_pictures",
    "make_regions",
    "private_imports",
    "run_ranks",
]

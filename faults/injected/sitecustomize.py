"""Read by Python as it starts, where this folder is on PYTHONPATH; ``VLRUN_FAULT`` says what it does.

nan: one loss of the second rank is not a number. spawn: workers are spawned, as elsewhere than on Linux.
"""

import os
import sys
from importlib.abc import MetaPathFinder

_CALL = 2


class _AfterTorch(MetaPathFinder):
    """Waits for the first plugin with a loss, when torch is there."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("vlrun_vqa"):
            sys.meta_path.remove(self)
            _spoil()
        return


def _spoil() -> None:
    import torch.nn.functional as F

    original, calls = F.binary_cross_entropy_with_logits, [0]

    def spoiled(*arguments, **options):
        loss = original(*arguments, **options)
        calls[0] += 1
        return loss * float("nan") if os.environ.get("RANK") == "1" and calls[0] == _CALL else loss

    F.binary_cross_entropy_with_logits = spoiled


if os.environ.get("VLRUN_FAULT") == "nan":
    sys.meta_path.insert(0, _AfterTorch())
if os.environ.get("VLRUN_FAULT") == "spawn":
    import multiprocessing

    multiprocessing.set_start_method("spawn")

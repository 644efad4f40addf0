"""A rank ends with its launcher, however that ends: nobody would look after it any more."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from vlrun.errors import DistributedError

_SET_PARENT_DEATH_SIGNAL = 1  # of <sys/prctl.h>


def end_with_parent() -> None:
    """Lets the kernel end this process when its parent is gone, also if it is frozen; on Linux.

    Torch has it sent SIGINT instead, which we take for a request to finish the step.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def watch_parent() -> None:
    """As ``end_with_parent``; where the kernel does not help, a thread looks every second."""
    end_with_parent()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(DistributedError.exit_status)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()

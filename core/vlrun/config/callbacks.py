"""What the options of callbacks derive from (this module imports no torch)."""

from __future__ import annotations

from vlrun.config.base import Config


class CallbackConfig(Config):
    """Options that every callback has."""

    name: str

"""What this plugin registers: the verb ``serve``."""

from __future__ import annotations

from vlrun import Command, hookimpl


@hookimpl
def vlrun_commands() -> list[Command]:
    """The web page."""
    return [Command(name="serve", summary="ask a run's model on a local web page", module="vlrun_serve.serve_command")]

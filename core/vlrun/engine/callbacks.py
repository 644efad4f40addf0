"""What callbacks keep, as one mapping of tensors that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vlrun.interfaces.callback import Callback


def callback_state(callbacks: Sequence[Callback]) -> dict[str, Tensor]:
    """What all of them keep, by their places in the experiment; copies, on the CPU."""
    return {
        f"{place}/{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for place, callback in enumerate(callbacks)
        for name, tensor in callback.state().items()
    }


def load_callback_state(callbacks: Sequence[Callback], state: Mapping[str, Tensor]) -> None:
    """Gives each its own part of ``state`` back; none where it had nothing."""
    for place, callback in enumerate(callbacks):
        prefix = f"{place}/"
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if own:
            callback.load_state(own)

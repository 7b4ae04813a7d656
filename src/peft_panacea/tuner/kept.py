"""What is made of parameters once, and made again as soon as one of them may have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Kept:
    """A tensor, and what the parameters that it is made of looked like.

    A write is seen by the version that every parameter counts, and a new `data` by its address, which nothing else can
    have as long as the old one is held here. Writes into `data` are not counted: on the CPU the values are compared as
    well; elsewhere, where a look at them would wait for the device, the owner begins another epoch when there may have
    been some.

    Args:
        make: Makes the tensor.
        parameters: Of what; each `can_be_watched`.
        epoch: The owner's.
    """

    __slots__ = ("_epoch", "_looks", "value")

    def __init__(self, make: Callable[[], Tensor], parameters: Sequence[nn.Parameter], epoch: int) -> None:
        self._epoch = epoch
        # Before the tensor is made, so that a write in between makes it out of date.
        self._looks = [_look(parameter) for parameter in parameters]
        self.value = make()

    def holds(self, parameters: Sequence[nn.Parameter], epoch: int) -> bool:
        """Whether the tensor would be the same if it were made now, of these parameters."""
        if epoch != self._epoch:
            return False
        for parameter, (known, data, address, version, values) in zip(parameters, self._looks, strict=True):
            if parameter is not known or parameter.data_ptr() != address or parameter._version != version:
                return False
            if values is not None and not torch.equal(data, values):
                return False
        return True


def can_be_watched(tensor: Tensor) -> bool:
    """Whether writes can be seen: it is no stand-in for a parameter, and was not created in inference mode."""
    return type(tensor) is nn.Parameter and not tensor.is_inference()


def _look(parameter: nn.Parameter) -> tuple[nn.Parameter, Tensor, int, int, Tensor | None]:
    data = parameter.detach()
    values = data.clone() if _can_be_looked_at(data) else None
    return parameter, data, data.data_ptr(), parameter._version, values


def _can_be_looked_at(data: Tensor) -> bool:
    return data.is_cpu

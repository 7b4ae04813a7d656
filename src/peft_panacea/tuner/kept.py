"""What is made of parameters once, and made again as soon as one of them may have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import string_at
from functools import partial
from typing import Any

from torch import Tensor, nn


class Kept:
    """A tensor, and what the parameters that it is made of looked like.

    A write is seen by the version that every parameter counts, and a new `data` by its address, which nothing else can
    have as long as the old one is held here. Writes into `data` are not counted: on the CPU the bytes are compared as
    well; elsewhere, where a look at them would wait for the device, the owner begins another epoch when there may have
    been some.

    Args:
        make: Makes the tensor.
        owner: The module of the parameters, which counts its epochs in `epoch`.
        names: Of the parameters; each `can_be_watched`.
    """

    __slots__ = ("_epoch", "_looks", "_owner", "value")

    def __init__(self, make: Callable[[], Tensor], owner: Any, names: Sequence[str]) -> None:
        self._owner = owner
        self._epoch = owner.epoch
        # Before the tensor is made, so that a write in between makes it out of date.
        self._looks = [_look(name, owner._parameters[name]) for name in names]
        self.value = make()

    def holds(self) -> bool:
        """Whether the tensor would be the same if it were made now, as far as can be seen."""
        if self._owner.epoch != self._epoch:
            return False
        parameters = self._owner._parameters
        for name, known, _, address, version, read, content in self._looks:
            parameter = parameters.get(name)
            if parameter is not known or parameter.data_ptr() != address or parameter._version != version:
                return False
            if read is not None and read() != content:
                return False
        return True


def can_be_watched(tensor: Tensor) -> bool:
    """Whether writes can be seen: it is no stand-in for a parameter, and was not created in inference mode."""
    return type(tensor) is nn.Parameter and not tensor.is_inference()


def _look(name: str, parameter: nn.Parameter) -> tuple[Any, ...]:
    data = parameter.detach()
    read = _reader(data)
    return name, parameter, data, data.data_ptr(), parameter._version, read, read and read()


def _reader(data: Tensor) -> Callable[[], bytes] | None:
    """Reads the bytes where they lie, as long as they do; None where that would wait for a device.

    `torch.equal` takes so long that it would cost as much as the gain; an array of NumPy's would pin the memory, which
    sharding gives back.
    """
    return partial(string_at, data.data_ptr(), data.nbytes) if data.is_cpu else None

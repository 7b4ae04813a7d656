"""Whether parameters have changed since something was made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import string_at
from functools import partial
from typing import Any

from torch import Tensor, nn


class Watch:
    """What parameters looked like.

    A write is seen by the version that every parameter counts, and a new `data` by its address, which nothing else can
    have as long as the old one is held here. Writes into `data` are not counted: on the CPU the bytes are compared as
    well; elsewhere a look at them would wait for the device, and whoever may have written has to begin another watch.

    Args:
        parameters: By name; each `can_be_watched`.
    """

    __slots__ = ("_looks",)

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._looks = [_look(name, parameter) for name, parameter in parameters.items()]

    def holds(self, parameters: Mapping[str, Any]) -> bool:
        """Whether these look as those did."""
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

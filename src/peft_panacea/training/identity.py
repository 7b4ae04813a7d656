"""What a reward is, as a digest that notices when it has changed."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import re
from collections import deque
from collections.abc import Iterator, Mapping, Set
from functools import partial
from operator import itemgetter
from os import PathLike
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def digest(value: Any) -> str:
    """16 hexadecimal digits of a function, or of an object that can be called, the same in every process.

    They change with the file in which the function or the class stands, all of it, so that what it calls there counts;
    with an object's attributes, such as the weights of a model; and with what a function is closed over. What the file
    imports is not looked at. What has no source, such as a function written in C, is known by its name.
    """
    return _digest(value, {})


def _digest(value: Any, seen: dict[int, Any]) -> str:
    found = hashlib.sha256()
    for part in _parts(value, seen):
        found.update(part + b"\0")
    return found.hexdigest()[:16]


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """All that is known of a value; of what was `seen` nothing again, which also ends circles."""
    yield type(value).__qualname__.encode()
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        if value.dtype.hasobject:  # whose bytes are addresses
            yield from _parts(value.tolist(), seen)
        else:
            yield value.tobytes()
    elif isinstance(value, Mapping | Set | list | tuple | deque):
        if id(value) not in seen:
            seen[id(value)] = value
            yield from _parts_within(value, seen)
            del seen[id(value)]  # what is there twice counts twice
    elif isinstance(value, re.Pattern):  # whose representation is cut off
        yield from _parts((value.pattern, value.flags), seen)
    elif isinstance(value, PreTrainedTokenizerBase):  # which calls change
        yield from _parts(value.get_vocab(), seen)
    elif isinstance(value, partial):
        yield from _parts((value.func, value.args, value.keywords), seen)
    elif isinstance(value, MethodType):
        yield from _parts((value.__func__, value.__self__), seen)
    elif isinstance(value, ModuleType | PathLike) or not (hasattr(value, "__dict__") or object.__getstate__(value)):
        yield _ADDRESS.sub("", repr(value)).encode()
    elif id(value) not in seen:
        seen[id(value)] = value
        if isinstance(value, type):
            yield from (_source(base) for base in value.__mro__)
        elif isinstance(value, FunctionType):
            yield _source(value)
            closed_over = [cell.cell_contents for cell in value.__closure__ or ()]
            yield from _parts((value.__defaults__, value.__kwdefaults__, closed_over, vars(value)), seen)
        else:
            yield from _parts((type(value), object.__getstate__(value)), seen)  # with what is in slots


def _parts_within(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Those of the items, in an order that does not depend on where objects lie."""
    if isinstance(value, Mapping):
        for key, item in sorted(((_digest(key, dict(seen)), item) for key, item in value.items()), key=itemgetter(0)):
            yield key.encode()
            yield from _parts(item, seen)
    elif isinstance(value, Set):
        yield from sorted(_digest(item, dict(seen)).encode() for item in value)
    else:
        for item in value:
            yield from _parts(item, seen)


def _source(definition: Any) -> bytes:
    """The name of a function or class, and the file or notebook cell in which it stands."""
    try:
        file = inspect.getsourcefile(definition)
    except (OSError, TypeError):  # as Python says that it has none
        file = None
    if file is not None:
        linecache.checkcache(file)
    return "\n".join([definition.__qualname__, *linecache.getlines(file or "")]).encode()

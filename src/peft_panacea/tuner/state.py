"""Whose preference a running call sees: that of its own call or block, else the one that is set for everyone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor

CPU = torch.device("cpu")

OnDevices: TypeAlias = dict[torch.device, Tensor]
"""One adapter's preference, [m] or [B, m], float32, on the CPU and wherever it was used."""

_SCOPE: ContextVar[Scope] = ContextVar("panacea_scope")

_numbers = itertools.count()


class Scope:
    """The preferences that hold in one thread or asyncio task for the length of a block or call.

    Attributes:
        preferences: By the number of the adapter, which is different for every adapter in the process.
        outer: The scope around it.
        of_call: Whether it ends with a call of the model, so that its rows may follow those of the batch.
        left: Whether it has ended, but is still there for somebody.
        current: The innermost scope of whoever asks; this one itself where there is none.
    """

    def __init__(
        self, preferences: dict[int, OnDevices], *, outer: Scope | None = None, of_call: bool = False
    ) -> None:
        self.preferences = preferences
        self.outer = outer
        self.of_call = of_call
        self.left = False

    # A property that is made in C is no code to `torch.compile`, which cannot trace a context variable: it looks the
    # value up again at every call. So a graph serves all threads and all preferences.
    current: Any = property(_SCOPE.get)


def _innermost() -> Scope | None:
    scope = _SCOPE.get(None)
    while scope is not None and scope.left:
        scope = scope.outer
    return scope


@contextmanager
def _entered(preferences: dict[int, OnDevices], *, of_call: bool = False) -> Iterator[None]:
    """A scope with these preferences and no others."""
    outer = _innermost()
    scope = Scope(preferences, outer=outer, of_call=of_call)
    token = _SCOPE.set(scope)
    try:
        yield
    finally:
        inner = _innermost()
        try:
            _SCOPE.reset(token)
        except ValueError:  # an unfinished generator was closed by another thread or task than the one it steers
            scope.left = True
        else:
            if inner is not scope:  # it was closed within a block that was entered later, which goes on
                scope.left = True
                if inner is not None:
                    _SCOPE.set(inner)
        if scope.left:
            scope.preferences = {} if outer is None else outer.preferences


class PreferenceState:
    """The preferences of every adapter of one model, shared by reference by all of the model's layers.

    They are neither parameters nor buffers: DDP would broadcast a buffer from rank 0, `.to(bfloat16)` would round it.
    A change replaces the tensor and never writes into it, so a graph that used the old one stays valid. A copy or
    pickle has what everyone sees, and adapters of its own.
    """

    def __init__(self) -> None:
        self.objectives: dict[str, tuple[str, ...]] = {}
        self._number: dict[str, int] = {}
        self._everyone = Scope({})
        self._devices: set[torch.device] = set()  # besides the CPU

    def __getstate__(self) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        return {name: (self.objectives[name], self._of_everyone(name)[CPU]) for name in self.objectives}

    def __setstate__(self, adapters: dict[str, tuple[tuple[str, ...], Tensor]]) -> None:
        self.__init__()  # type: ignore[misc]
        for name, (objectives, preference) in adapters.items():
            self.add(name, objectives, preference)

    def add(self, adapter_name: str, objectives: Sequence[str], default: Tensor) -> None:
        """Register an adapter, with `default` ([m]) as its preference."""
        self._number.setdefault(adapter_name, next(_numbers))
        self.objectives[adapter_name] = tuple(objectives)
        self.set({adapter_name: default})

    def remove(self, adapter_name: str) -> None:
        """Forget an adapter; do nothing if it is not known."""
        self.objectives.pop(adapter_name, None)
        self._everyone.preferences.pop(self._number.pop(adapter_name, -1), None)

    def get(self, adapter_name: str, device: torch.device = CPU) -> Tensor:
        """The preference of an adapter as the caller sees it, [m] or [B, m], float32 on `device`."""
        preference = self._seen(adapter_name)
        if device not in preference:
            self._devices.add(device)
            preference.update(self._on_devices(preference[CPU]))
        return preference[device]

    def set(self, preferences: Mapping[str, Tensor]) -> None:
        """Replace what everyone sees of the named adapters."""
        for name, preference in preferences.items():
            self._everyone.preferences[self._number[name]] = self._on_devices(preference)

    def overridden(self, adapter_name: str) -> bool:
        """Whether the caller is in a block or call and does not see what everyone sees of the adapter."""
        return self._number[adapter_name] in self._around()

    @contextmanager
    def block(self, preferences: Mapping[str, Tensor]) -> Iterator[None]:
        """Within it the caller sees these preferences; of other adapters, what it saw before."""
        with _entered({**self._around(), **self._numbered(preferences)}):
            yield

    @contextmanager
    def call(self, preferences: Mapping[str, Tensor]) -> Iterator[None]:
        """The same for one call of the model, which sees no later change of other adapters either."""
        with _entered({**self._around(), **self.seen(), **self._numbered(preferences)}, of_call=True):
            yield

    @contextmanager
    def as_seen(self, seen: Mapping[int, OnDevices]) -> Iterator[None]:
        """Within it the caller sees what `seen` returned."""
        with _entered({**self._around(), **seen}):
            yield

    @contextmanager
    def as_everyone(self) -> Iterator[None]:
        """Within it the caller sees what everyone sees; on leaving it, that is what it was before."""
        before = dict(self._everyone.preferences)
        try:
            with _entered({n: preference for n, preference in self._around().items() if n not in before}):
                yield
        finally:
            # Not what was deleted since, nor an adapter that was added, even under the name of a deleted one.
            self._everyone.preferences.update({n: before[n] for n in before if n in self._everyone.preferences})

    def seen(self) -> dict[int, OnDevices]:
        """What the caller sees, for `as_seen`."""
        return {self._number[name]: self._seen(name) for name in self.objectives}

    def repeat_rows(self, repeats: int) -> None:
        """Repeat every per-row preference of a call as `generate` repeats rows: each row `repeats` times in a run."""
        scope = self._everyone.current
        if not scope.of_call:
            return
        for number, preference in self.seen().items():
            if preference[CPU].ndim == 2:
                rows = preference[CPU].repeat_interleave(repeats, dim=0)
                scope.preferences = {**scope.preferences, number: self._on_devices(rows)}

    def _seen(self, adapter_name: str) -> OnDevices:
        preference = self._everyone.current.preferences.get(self._number[adapter_name])
        return self._of_everyone(adapter_name) if preference is None else preference

    def _of_everyone(self, adapter_name: str) -> OnDevices:
        return self._everyone.preferences[self._number[adapter_name]]

    def _around(self) -> dict[int, OnDevices]:
        """The preferences of the caller's scope."""
        scope: Scope = self._everyone.current
        return {} if scope is self._everyone else scope.preferences

    def _numbered(self, preferences: Mapping[str, Tensor]) -> dict[int, OnDevices]:
        return {self._number[name]: self._on_devices(preference) for name, preference in preferences.items()}

    def _on_devices(self, preference: Tensor) -> OnDevices:
        if not self._devices:
            return {CPU: preference}
        with torch.inference_mode(False):  # what is copied in a generation may be trained under later
            return {CPU: preference, **{device: preference.to(device) for device in tuple(self._devices)}}

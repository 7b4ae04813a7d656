"""Whose preference a running call sees: that of its own call or block, else the one that is set for everyone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from .bounds import Bounds
from .preferences import Names
from .watch import Watch

CPU = torch.device("cpu")

_SCOPE: ContextVar[Scope] = ContextVar("panacea_scope")

_numbers = itertools.count()


class Held:
    """One adapter's preference, and what was made of it, which lasts as long as somebody holds it.

    Args:
        preference: [m], [B, m] or [B, T, m], float32, on the CPU.
        devices: Where else it is wanted; a device that is asked for is added.

    Attributes:
        batch: (), (B,) or (B, T).
        gains: By layer and number of dimensions of its input, each with the watch that it was made under.
    """

    def __init__(self, preference: Tensor, devices: set[torch.device] | None = None) -> None:
        self.batch = preference.shape[:-1]
        self.gains: dict[tuple[Any, int], tuple[Watch, Tensor]] = {}
        self._devices = set() if devices is None else devices
        self._on = {CPU: preference}
        self._copy()

    def on(self, device: torch.device = CPU) -> Tensor:
        """The preference on a device."""
        if device not in self._on:
            self._devices.add(device)
            self._copy()
        return self._on[device]

    def settle(self) -> None:
        """Let go what no longer holds."""
        for key in [key for key, (watch, _) in list(self.gains.items()) if not key[0].is_current(watch)]:
            self.gains.pop(key, None)

    def _copy(self) -> None:
        if self._devices:
            with torch.inference_mode(False):  # what is copied in a generation may be trained under later
                self._on.update({device: self._on[CPU].to(device) for device in tuple(self._devices)})


class Scope:
    """The preferences that hold in one thread or asyncio task for the length of a block or call.

    Attributes:
        preferences: By the number of the adapter, which is different for every adapter in the process.
        outer: The scope around it.
        left: Whether it has ended, but is still there for somebody; it is a `_Left` then.
        call: The scope of the call of the model that it belongs to, itself if the rows may follow those of the batch.
            What was kept with its preferences is let go when it begins, unless it still holds, and not looked at again
            until the call has ended.
        ended: Whether it was left.
        current: The innermost scope of whoever asks; this one itself where there is none.
    """

    left = False

    def __init__(self, preferences: dict[int, Held], *, outer: Scope | None = None, of_call: bool = False) -> None:
        self.preferences = preferences
        self.outer = outer
        self.ended = False
        self.call: Scope | None = self if of_call else None if outer is None else outer.call
        if self.call is not None:
            for held in preferences.values():
                held.settle()

    # A property that is made in C is no code to `torch.compile`, which cannot trace a context variable: it looks the
    # value up again at every call. So a graph serves all threads and all preferences.
    current: Any = property(_SCOPE.get)


class _Left(Scope):
    """A scope that has ended out of turn. It is seen through at every look, because those around it may end, too.

    It is a class, so that a look at others does not have to ask.
    """

    left = True

    @property
    def preferences(self) -> dict[int, Held]:  # type: ignore[override]
        return {} if self.outer is None else self.outer.preferences


def _through(scope: Scope | None) -> Scope | None:
    """The scope, or the next around it, that has not been left."""
    while scope is not None and scope.left:
        scope = scope.outer
    return scope


@contextmanager
def _entered(preferences: dict[int, Held], *, of_call: bool = False) -> Iterator[None]:
    """A scope with these preferences and no others."""
    outer = _through(_SCOPE.get(None))
    if outer is not None:
        outer.outer = _through(outer.outer)  # or generators that take turns would keep all that ever were
    scope = Scope(preferences, outer=outer, of_call=of_call)
    token = _SCOPE.set(scope)
    try:
        yield
    finally:
        scope.ended, scope.call = True, None
        inner = _through(_SCOPE.get(None))
        in_turn = inner is scope
        try:
            _SCOPE.reset(token)
        except ValueError:  # an unfinished generator was closed by another thread or task than the one it steers
            in_turn = False
        else:
            if not in_turn and inner is not None:  # it was closed within a block that was entered later, which goes on
                _SCOPE.set(inner)
        if not in_turn:
            scope.__class__ = _Left
            del vars(scope)["preferences"]


class PreferenceState:
    """The preferences of every adapter of one model, shared by reference by all of the model's layers.

    They are neither parameters nor buffers: DDP would broadcast a buffer from rank 0, `.to(bfloat16)` would round it.
    A change replaces the tensor and never writes into it, so a graph that used the old one stays valid. A copy or
    pickle has what everyone sees, and adapters of its own.
    """

    def __init__(self) -> None:
        self.objectives: dict[str, tuple[str, ...]] = {}
        self.bounds: dict[str, Bounds] = {}
        self.names: dict[str, Names] = {}
        self._number: dict[str, int] = {}
        self._everyone = Scope({})
        self._devices: set[torch.device] = set()  # besides the CPU
        self._last: dict[str, Held] = {}

    def __getstate__(self) -> dict[str, tuple[tuple[str, ...], Tensor, Bounds, Names]]:
        return {
            name: (self.objectives[name], self._of_everyone(name).on(), self.bounds[name], self.names[name])
            for name in self.objectives
        }

    def __setstate__(self, adapters: dict[str, tuple[tuple[str, ...], Tensor, Bounds, Names]]) -> None:
        self.__init__()  # type: ignore[misc]
        for name, adapter in adapters.items():
            self.add(name, *adapter)

    def add(
        self,
        adapter_name: str,
        objectives: Sequence[str],
        default: Tensor,
        bounds: Bounds | None = None,
        names: Names | None = None,
    ) -> None:
        """Register an adapter, with `default` ([m]) as its preference, what its preferences are kept to and called."""
        self._number.setdefault(adapter_name, next(_numbers))
        self.objectives[adapter_name] = tuple(objectives)
        self.bounds[adapter_name] = dict(bounds or {})
        self.names[adapter_name] = dict(names or {})
        self.set({adapter_name: default})

    def remove(self, adapter_name: str) -> None:
        """Forget an adapter; do nothing if it is not known."""
        self.objectives.pop(adapter_name, None)
        self.bounds.pop(adapter_name, None)
        self.names.pop(adapter_name, None)
        self._last.pop(adapter_name, None)
        self._everyone.preferences.pop(self._number.pop(adapter_name, -1), None)

    def get(self, adapter_name: str, device: torch.device = CPU) -> Tensor:
        """The preference of an adapter as the caller sees it, [m], [B, m] or [B, T, m], float32 on `device`."""
        return self.held(adapter_name)[0].on(device)

    def held(self, adapter_name: str) -> tuple[Held, bool]:
        """The same with what was made of it, and whether that holds without a look at it."""
        scope: Scope = self._everyone.current
        number = self._number[adapter_name]
        held = scope.preferences.get(number)
        if held is None:
            return self._everyone.preferences[number], False
        if torch.compiler.is_compiling():  # a graph makes everything itself, and should not depend on this
            return held, False
        call = scope.call  # which whoever entered it may leave at any time, in another thread
        return held, call is not None and not call.ended

    def set(self, preferences: Mapping[str, Tensor]) -> None:
        """Replace what everyone sees of the named adapters."""
        for name, preference in preferences.items():
            self._everyone.preferences[self._number[name]] = self._hold(name, preference)

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
    def as_seen(self, seen: Mapping[int, Held]) -> Iterator[None]:
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

    def seen(self) -> dict[int, Held]:
        """What the caller sees, for `as_seen`."""
        return {self._number[name]: self.held(name)[0] for name in self.objectives}

    def repeat_rows(self, repeats: int) -> None:
        """Repeat every per-row preference of a call as `generate` repeats rows: each row `repeats` times in a run."""
        scope = self._everyone.current
        if scope.call is not scope:
            return
        for number, preference in self.seen().items():
            if preference.batch:
                rows = preference.on().repeat_interleave(repeats, dim=0)
                scope.preferences = {**scope.preferences, number: Held(rows, self._devices)}

    def _of_everyone(self, adapter_name: str) -> Held:
        return self._everyone.preferences[self._number[adapter_name]]

    def _around(self) -> dict[int, Held]:
        """The preferences of the caller's scope."""
        scope: Scope = self._everyone.current
        return {} if scope is self._everyone else scope.preferences

    def _numbered(self, preferences: Mapping[str, Tensor]) -> dict[int, Held]:
        return {self._number[name]: self._hold(name, preference) for name, preference in preferences.items()}

    def _hold(self, adapter_name: str, preference: Tensor) -> Held:
        # A loop that gives the same preference to every call, token by token, makes everything once.
        last = self._last.get(adapter_name)
        if last is None or not torch.equal(last.on(), preference):
            last = self._last[adapter_name] = Held(preference, self._devices)
        return last

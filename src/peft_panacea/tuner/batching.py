"""Continuous batching: every request has the preference that is seen where it is added.

transformers packs the tokens of all requests into one sequence and computes it in a thread of its own, which sees no
preference of a call or block. So the preference is written down with the request, which transformers carries to the
step that computes its tokens, and each step runs under a preference for every token. What requests could share, the
cached beginnings of their prompts, was computed under another's preference, and is not shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ContinuousBatchingConfig

from .preferences import Preferences
from .state import PreferenceState
from .steering import first_layer, parse_for

INITIALISE, GENERATE = "init_continuous_batching", "generate_batch"
KEYWORD = "panacea_preference"
"""Among what transformers carries with a request for logits processors."""


class _Steered:
    """A method of transformers in which requests are steered."""

    def __init__(self, method: Callable[..., Any], model: nn.Module, state: PreferenceState) -> None:
        self.method = method
        self.model = model
        self.state = state

    def under(self, preference: Preferences | None) -> AbstractContextManager[None]:
        """Within the block this preference is seen, if it is one, by the active adapters."""
        if preference is None:
            return nullcontext()
        layer = first_layer(self.model)
        active = [name for name in layer.active_adapters if name in self.state.objectives]
        return self.state.block(parse_for(layer, preference, active))


class _Generate(_Steered):
    """`generate_batch` with the keyword `preference`, one for all inputs or one for each."""

    def __call__(self, *args: Any, preference: Preferences | None = None, **kwargs: Any) -> Any:
        with self.under(preference):
            return self.method(*args, **kwargs)


class _Initialise(_Steered):
    """`init_continuous_batching`; its manager steers."""

    def __call__(
        self,
        generation_config: Any = None,
        continuous_batching_config: ContinuousBatchingConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        config = _steerable(continuous_batching_config or ContinuousBatchingConfig())
        manager = self.method(generation_config, config, *args, **kwargs)
        if not isinstance(manager.add_request, _AddRequest):  # it may be one that was kept
            manager.logit_processor.supported_keys[KEYWORD] = dict
            manager.add_request = _AddRequest(manager.add_request, self.model, self.state)
            manager.add_requests = _AddRequests(manager.add_requests, self.model, self.state)
            manager._generation_step = _Step(manager._generation_step, self.model, self.state, manager)
        return manager


class _AddRequest(_Steered):
    """`add_request` with the keyword `preference`; without it the request has the one that the caller sees."""

    def __call__(self, *args: Any, preference: Preferences | None = None, **kwargs: Any) -> Any:
        with self.under(preference):
            seen = {name: self.state.get(name) for name in self.state.objectives}
        for found in seen.values():
            if found.ndim > 1:
                raise ValueError(
                    f"`preference` must be one preference for one request, but got {len(found)} rows; `add_requests` "
                    "and `generate_batch` take one for each of their inputs."
                )
        return self.method(*args, **{**kwargs, KEYWORD: seen})


class _AddRequests(_Steered):
    """`add_requests`; with a preference for every row, each input has its own."""

    def __call__(
        self, inputs: Sequence[list[int]], *args: Any, preference: Preferences | None = None, **kwargs: Any
    ) -> list[str]:
        with self.under(preference):
            seen = {name: self.state.get(name) for name in self.state.objectives}
        for found in seen.values():
            if found.ndim > 2 or (found.ndim == 2 and len(found) != len(inputs)):
                raise ValueError(
                    f"`preference` must be one preference or one for each of {len(inputs)} inputs, but got shape "
                    f"{tuple(found.shape)}."
                )
        requests: list[str] = []
        for i, tokens in enumerate(inputs):
            with self.state.block({name: found[i] if found.ndim == 2 else found for name, found in seen.items()}):
                requests += self.method([tokens], *args, **kwargs)
        return requests


class _Step(_Steered):
    """A step of the manager's thread, in which every token is under the preference of its request."""

    def __init__(self, method: Callable[..., Any], model: nn.Module, state: PreferenceState, manager: Any) -> None:
        super().__init__(method, model, state)
        self.manager = manager

    def __call__(self) -> None:
        requests = self.manager.batch_processor.inputs_and_outputs.requests_in_batch
        lengths = torch.tensor([request.query_length for request in requests])
        asked = [request.state.logit_processor_kwargs[KEYWORD] for request in requests]

        def tokens(name: str) -> Tensor:
            return torch.stack([preferences[name] for preferences in asked]).repeat_interleave(lengths, dim=0)[None]

        with self.state.call({name: tokens(name) for name in self.state.objectives}):
            self.method()


def _steerable(config: ContinuousBatchingConfig) -> ContinuousBatchingConfig:
    """A copy without what would mix preferences up; refused where that was asked for by name."""
    for option in ("use_cuda_graph", "use_async_batching"):
        value = getattr(config, option)
        if value is True or (isinstance(value, tuple) and any(value)):
            raise ValueError(
                f"`{option}` must not be set with a Panacea adapter, whose preferences change from step to step, but "
                f"got {value!r}."
            )
    config = copy.copy(config)
    config.use_cuda_graph = config.use_async_batching = config.allow_block_sharing = False
    return config


def steer_requests(model: nn.Module, state: PreferenceState) -> None:
    """Make the continuous batching of a transformers `model` that can generate steer each request."""
    for method, steered in ((INITIALISE, _Initialise), (GENERATE, _Generate)):
        original = getattr(model, method, None)
        if original is not None and not isinstance(original, _Steered):
            setattr(model, method, steered(original, model, state))


def stop_steering_requests(model: nn.Module) -> None:
    """Undo `steer_requests`."""
    for method in (INITIALISE, GENERATE):
        if isinstance(vars(model).get(method), _Steered):
            delattr(model, method)

"""transformers' own server, the one of `transformers serve`, with a preference for every request.

A request has one more field, `preference`, in any form that JSON has for one. Its handler runs in a block of that
preference, and the thread that computes it sees the block, because it is given the handler's context.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from contextvars import copy_context
from typing import Any

from peft import PeftConfig

from ..extras import needs
from ..hub import base_of
from ..tuner import get_preference, preference

with needs("serve"):
    from fastapi import FastAPI, HTTPException
    from transformers import ContinuousBatchingConfig
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.systemone import SystemOneHandler
    from transformers.cli.serving.transcription import TranscriptionHandler
    from transformers.cli.serving.utils import GenerateManager, GenerationState


class _Steered:
    """Of a handler: its `handle_request` under the preference that the request asks for."""

    async def handle_request(self: Any, body: dict[str, Any], request_id: str) -> Any:
        body = dict(body)
        asked = body.pop("preference", None)
        if asked is None:
            return await super().handle_request(body, request_id)  # type: ignore[misc]
        _, model, _ = self._resolve_model(dict(body))
        with ExitStack() as block:
            try:
                block.enter_context(preference(model, asked))
                if get_preference(model).ndim > 1:
                    raise ValueError(f"`preference` must be one preference for a request, but got {len(asked)} rows.")
            except (TypeError, ValueError) as error:
                raise HTTPException(status_code=400, detail=str(error)) from None
            return await super().handle_request(body, request_id)  # type: ignore[misc]


class SteeredChatCompletions(_Steered, ChatCompletionHandler):
    """`/v1/chat/completions`."""


class SteeredCompletions(_Steered, CompletionHandler):
    """`/v1/completions`."""


class SteeredResponses(_Steered, ResponseHandler):
    """`/v1/responses`."""


class _InContext(GenerateManager):
    """Its thread sees what the handler sees that gives it something to do."""

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(copy_context().run, fn, *args, **kwargs)

    def async_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().async_submit(copy_context().run, fn, *args, **kwargs)


class _Generation(GenerationState):
    def get_manager(self, model_id: str, use_cb: bool = False) -> Any:
        if not use_cb and model_id not in self._generate_managers:
            self._generate_managers[model_id] = _InContext()
        return super().get_manager(model_id, use_cb)


class _Models(ModelManager):
    """Base models with an adapter."""

    def _load_processor(self, model_id_and_revision: str, gguf_file: str | None = None) -> Any:
        """That of the adapter, or that of its base model."""
        try:
            return super()._load_processor(model_id_and_revision, gguf_file)
        except (OSError, ValueError):
            return super()._load_processor(_base(model_id_and_revision), gguf_file)

    def _load_model(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> Any:
        model = super()._load_model(_base(model_id_and_revision), *args, **kwargs)
        processor = self._load_processor(model_id_and_revision)
        tokens = len(getattr(processor, "tokenizer", processor))
        if tokens > model.get_input_embeddings().num_embeddings:  # the adapter came with tokens of its own
            model.resize_token_embeddings(tokens)
        adapter, revision = model_id_and_revision.rsplit("@", 1)
        model.load_adapter(adapter, adapter_kwargs={"revision": revision})
        return model


def _base(model_id_and_revision: str) -> str:
    """Of an adapter, as transformers' server writes names."""
    adapter, revision = model_id_and_revision.rsplit("@", 1)
    config = PeftConfig.from_pretrained(adapter, revision=revision)
    return f"{base_of(config, adapter)}@{config.revision or 'main'}"


def pages(tokens: int) -> ContinuousBatchingConfig:
    """Continuous batching with a cache of so many tokens; by itself transformers takes nearly all of the memory.

    Raises:
        ValueError: they do not fill a page.
    """
    config = ContinuousBatchingConfig()
    if tokens < config.page_size:
        raise ValueError(f"`--cache_tokens` must be at least {config.page_size}, but got {tokens}.")
    config.num_blocks = tokens // config.page_size
    config.max_batch_tokens = min(tokens, 1024)  # by itself as many as memory has place for, too
    return config


def steered_server(
    path: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    continuous_batching: bool | ContinuousBatchingConfig = False,
) -> FastAPI:
    """The application that serves one adapter, at the preference of each request.

    Args:
        path: Adapter, a folder or a name on the Hub.
        dtype: Of the weights, such as `"bfloat16"`; `"auto"`: as they are saved.
        device: Where the model is put, such as `"cuda:0"`.
        continuous_batching: Whether requests are computed together, perhaps with this configuration, and not one after
            the other. Temperature and `top_p` are then those of the first request, which is transformers' doing.

    Returns:
        An application with transformers' routes, for uvicorn.

    Raises:
        OSError, ValueError: there is no model, or none that transformers can serve.
    """
    models = _Models(device=device, dtype=dtype, continuous_batching=bool(continuous_batching), force_model=path)
    config = continuous_batching if isinstance(continuous_batching, ContinuousBatchingConfig) else None
    generation = _Generation(continuous_batching=bool(continuous_batching), cb_config=config)
    common = {"model_manager": models, "generation_state": generation}
    app = build_server(
        models,
        SteeredChatCompletions(**common, chat_template_kwargs={}),
        completion_handler=SteeredCompletions(**common),
        response_handler=SteeredResponses(**common, chat_template_kwargs={}),
        transcription_handler=TranscriptionHandler(models, generation),
        systemone_handler=SystemOneHandler(**common, chat_template_kwargs={}),
        generation_state=generation,
    )
    ends = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with ends(app) as state:
            yield state
        generation.shutdown()  # its threads would keep the process

    app.router.lifespan_context = lifespan
    return app

"""The adapter that a command is about."""

from __future__ import annotations

from typing import Any


def config_of(path: str) -> Any:
    """Its `PanaceaConfig`; refused where it is no Panacea adapter."""
    from ..hub import load_config

    return load_config(path)


def tokenizer_of(path: str) -> Any:
    """Its own tokenizer, or that of its base model."""
    from ..hub import load_tokenizer

    return load_tokenizer(path)


def model_of(path: str, **options: Any) -> Any:
    """Its base model with it; `options` are those of `load`."""
    from ..hub import load

    return load(path, **options)

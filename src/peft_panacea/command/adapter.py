"""The adapter that a command is about."""

from __future__ import annotations

from typing import Any


def config_of(path: str) -> Any:
    """Its `PanaceaConfig`; refused where it is no Panacea adapter."""
    from peft import PeftConfig

    from ..tuner import PanaceaConfig

    config = PeftConfig.from_pretrained(path)
    if not isinstance(config, PanaceaConfig):
        raise ValueError(f"`PATH` must be a Panacea adapter, but {path} is of {config.peft_type}.")
    return config


def model_of(path: str, config: Any) -> Any:
    """Its base model with it."""
    import peft

    from ..card import AUTO_CLASSES

    return getattr(peft, AUTO_CLASSES.get(config.task_type, "AutoPeftModel")).from_pretrained(path)

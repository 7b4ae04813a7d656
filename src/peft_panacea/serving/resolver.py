"""vLLM's LoRA resolver: `"model": "NAME@0.3,0.7"` is the adapter NAME as plain LoRA at this preference."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..convert.lora import write_lora
from ..convert.saved import SavedSource
from ..steps import in_steps, limits_in_steps
from ..tuner.bounds import limits, nearest
from ..written import read_preference
from .cache import ExportCache

STEPS = 100
"""Preferences are rounded to hundredths, so that a server is asked for a bounded number of adapters."""
ADAPTERS, CACHE, EXPORTS = "PEFT_PANACEA_ADAPTERS", "PEFT_PANACEA_CACHE", "PEFT_PANACEA_EXPORTS"


def register() -> None:
    """Make vLLM ask for models of the adapters in `PEFT_PANACEA_ADAPTERS`; it calls this in each of its processes.

    Raises:
        RuntimeError: vLLM does not ask resolvers, because `VLLM_ALLOW_RUNTIME_LORA_UPDATING` is not set.
        ValueError: a variable says something else, or a folder does not hold a Panacea adapter.
    """
    if ADAPTERS not in os.environ:
        return
    from vllm import envs
    from vllm.lora.resolver import LoRAResolverRegistry

    resolver = PanaceaResolver.of(os.environ)
    if not envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING:
        raise RuntimeError(
            f"`VLLM_ALLOW_RUNTIME_LORA_UPDATING` must be 1 where `{ADAPTERS}` is set, because vLLM asks no resolver "
            "without it, but it is 0."
        )
    LoRAResolverRegistry.register_resolver("peft-panacea", resolver)


class PanaceaResolver:
    """Has the interface of `vllm.lora.resolver.LoRAResolver`, without importing vLLM.

    Args:
        adapters: Folders, or names on the Hub, by the name that requests call them.
        exports: Where the LoRA adapters go.
    """

    def __init__(self, adapters: Mapping[str, str], exports: ExportCache) -> None:
        self.adapters, self.exports = adapters, exports

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> PanaceaResolver:
        """As the variables say; folders are looked at at once, names on the Hub when they are asked for."""
        adapters = {}
        for item in environment[ADAPTERS].split(","):
            name, _, path = item.strip().partition("=")
            if not name or not path or "@" in name or name in adapters:
                raise ValueError(f"`{ADAPTERS}` must be NAME=PATH, … with names that differ, but got {item!r}.")
            adapters[name] = path = os.path.expanduser(path)
            if Path(path).is_dir():
                SavedSource(path)
        limit = environment.get(EXPORTS, "1000")
        if not limit.isdecimal() or int(limit) < 1:
            raise ValueError(f"`{EXPORTS}` must be an integer of at least 1, but got {limit!r}.")
        root = Path(environment.get(CACHE, "~/.cache/peft-panacea")).expanduser().absolute()
        return cls(adapters, ExportCache(root, int(limit)))

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """What vLLM awaits for a model that it does not know.

        Args:
            base_model_name: The served model; not looked at.
            lora_name: `NAME@0.3,0.7`, `NAME@helpful=0.3,harmless=0.7`, `NAME@CALLED` with one of the adapter's
                `named_preferences`, or `NAME` for the default preference.

        Returns:
            A `LoRARequest`, or None for a name that is not of ours.

        Raises:
            ValueError: this is no preference of the adapter, or more than an adapter was trained. vLLM answers 400 and
                the message.
        """
        name, at, said = lora_name.partition("@")
        if name not in self.adapters:
            return None
        from vllm.lora.request import LoRARequest

        folder = await asyncio.to_thread(self.export, name, said.split(",") if at else None)
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))  # vLLM numbers it itself

    def export(self, name: str, words: list[str] | None) -> Path:
        """The folder of the LoRA at the preference that the words say, or at the default.

        What has a name, which may be off the simplex, is exported as it is. The rest is rounded, within the adapter's
        bounds, unless these leave no hundredths.
        """
        source = SavedSource(_folder(self.adapters[name]))
        if besides := source.trained_besides():
            raise ValueError(f"`model` must be an adapter alone for vLLM, but {name} has `{besides[0]}`.")
        said = source.config.initial_preference if words is None else read_preference(words, "preference")
        exported, key = source.one_preference(said, extrapolate=False), said
        if not isinstance(said, str):
            config = source.config
            bounds = limits_in_steps(*limits(config.preference_bounds or {}, config.objective_names), STEPS)
            if bounds is None:
                key = "exactly-" + "-".join(f"{entry:.6f}" for entry in exported.tolist())
            else:
                steps = in_steps(nearest(exported.tolist(), *bounds), STEPS)
                exported = source.one_preference([step / STEPS for step in steps], extrapolate=False)
                key = "-".join(map(str, steps))
        version = metadata.version("peft-panacea")
        folder = f"{source.digest[:32]}-{version}-{key}"
        return self.exports.get(folder, lambda path: write_lora(source, exported, path))


@cache
def _folder(path: str) -> str:
    """The adapter's folder; from the Hub once, so that a server serves one revision."""
    if Path(path).is_dir():
        return path
    return snapshot_download(path, allow_patterns=["adapter_config.json", "adapter_model.safetensors"])

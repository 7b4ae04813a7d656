"""The adapter that is exported: its layers, and what they add up from."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..tuner import PanaceaConfig, PanaceaSVD, Preference
from .factors import Factors, as_basis, at_preference

CONSTANT = "shared"
"""The name of what a basis has next to its objectives."""


@dataclass(frozen=True)
class Part:
    """One summand of a basis, or the adapter at one preference.

    Attributes:
        name: Of its file or folder.
        weight: What it is to be multiplied by: a number, or the objective whose entry of the preference it is.
        factors: Of the layers that it changes, by their names in the base model; all of one rank.
    """

    name: str
    weight: float | str
    factors: dict[str, Factors]

    @property
    def rank(self) -> int:
        """The same in all layers."""
        return len(next(iter(self.factors.values())).A)


class Source(ABC):
    """One Panacea adapter, read and never changed."""

    config: PanaceaConfig

    @abstractmethod
    def layers(self) -> dict[str, PanaceaSVD]:
        """What the adapter has for each layer, by the layer's name in the base model."""

    @abstractmethod
    def besides(self) -> dict[str, Tensor]:
        """What was trained besides, under PEFT's names."""

    @abstractmethod
    def target_modules(self, layers: Sequence[str]) -> list[str]:
        """What a LoRA configuration calls these layers."""

    @abstractmethod
    def fan_in_fan_out(self, layers: Sequence[str]) -> bool:
        """Whether their base layers store weights the other way round, as `Conv1D` does."""

    def one_preference(self, preference: Preference, extrapolate: bool) -> Tensor:
        """Parsed, [m]; rows are refused."""
        parsed = self.config.parse_preference(preference, extrapolate=extrapolate)
        if parsed.ndim != 1:
            raise ValueError(f"`preference` must be one preference, but got {len(parsed)} rows.")
        return parsed

    def trained_besides(self) -> list[str]:
        """The options under which something was trained that is no part of the adapter's layers."""
        others = {
            "modules_to_save": self.config.modules_to_save,
            "trainable_token_indices": self.config.trainable_token_indices,
            "bias": self.config.bias if self.config.bias != "none" else None,
        }
        return [option for option, value in others.items() if value]

    def at(self, preference: Tensor) -> Part:
        """The adapter at one preference, [m]."""
        return _part("", 1.0, {layer: at_preference(svd, preference) for layer, svd in self.layers().items()})

    def basis(self) -> list[Part]:
        """The parts whose weighted sum is the adapter at any preference; refused where something is left over."""
        if found := self.trained_besides():
            raise ValueError(
                "`model` must have nothing trained besides the adapter to be a weighted sum, but it has "
                f"`{found[0]}`; `export_lora` takes that along."
            )
        objectives = self.config.objective_names
        bases = {layer: as_basis(svd) for layer, svd in self.layers().items()}
        weights: list[float | str] = [1.0, *objectives]
        parts = []
        for i, (name, weight) in enumerate(zip(_file_names(objectives), weights, strict=True)):
            factors = {layer: basis[i] for layer, basis in bases.items() if len(basis[i].A)}
            if factors:
                parts.append(_part(name, weight, factors))
        return parts


def checked_folder(path: str | os.PathLike[str]) -> Path:
    """Refused where the adapter of another method is: it may be the one that is exported."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`path` must be a folder, but {folder} is a file.")
    config = folder / "adapter_config.json"
    if config.exists() and (kind := json.loads(config.read_text(encoding="utf-8")).get("peft_type")) != "LORA":
        raise ValueError(f"`path` must not hold another adapter, but {folder} has one of {kind}.")
    return folder


def _part(name: str, weight: float | str, factors: dict[str, Factors]) -> Part:
    """Filled up to one rank, because servers read one rank and one alpha for all layers."""
    rank = max(len(of_one.A) for of_one in factors.values())
    return Part(name, weight, {layer: of_one.filled(rank) for layer, of_one in factors.items()})


def _file_names(objectives: list[str]) -> list[str]:
    names = [CONSTANT]
    for objective in objectives:
        name = re.sub(r"[^\w-]+", "-", objective).strip("-") or "objective"
        names.append(next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(names) + 3))) if n not in names))
    return names

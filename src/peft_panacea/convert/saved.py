"""A saved adapter, as what is exported without its base model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from peft import PeftConfig
from torch import Tensor

from ..tuner import PanaceaConfig, PanaceaSVD
from ..tuner.state_dict import PREFIX
from .source import Source

MARK = ".panacea_svd."


class SavedSource(Source):
    """A Panacea adapter in a folder, whose tensors are read when they are asked for, once.

    The base model is neither needed nor looked at. So nothing says whether its layers are `Conv1D`, or whether others
    have the same last names: a LoRA that is made of this names its layers in full and has `fan_in_fan_out` False,
    which PEFT corrects on loading and servers do not read.

    Args:
        path: The folder.

    Raises:
        ValueError: it does not hold such an adapter as safetensors; so do the methods, if it is not whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = Path(path)
        files = [self.folder / name for name in ("adapter_config.json", "adapter_model.safetensors")]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ValueError(f"`path` must be the folder of a saved adapter, but {path} has no {missing[0]}.")
        config = PeftConfig.from_pretrained(str(path))
        if not isinstance(config, PanaceaConfig):
            raise ValueError(f"`path` must hold a Panacea adapter, but {path} has one of {config.peft_type}.")
        self.config = config

    @cached_property
    def _saved(self) -> bytes:
        return (self.folder / "adapter_model.safetensors").read_bytes()

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return safetensors.torch.load(self._saved)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors' bytes and of the configuration, hexadecimal."""
        described = json.dumps(self.config.to_dict(), sort_keys=True)
        return hashlib.sha256(described.encode() + b"\n" + self._saved).hexdigest()

    def layers(self) -> dict[str, PanaceaSVD]:
        of_layers: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self._tensors.items():
            layer, mark, name = key.removeprefix(PREFIX).partition(MARK)
            if mark:
                of_layers.setdefault(layer, {})[name] = tensor
        if not of_layers:
            raise ValueError(f"`path` must hold the layers of an adapter, but {self.folder} has none.")
        return {layer: self._layer(layer, tensors) for layer, tensors in of_layers.items()}

    def besides(self) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in self._tensors.items() if MARK not in key}

    def target_modules(self, layers: Sequence[str]) -> list[str]:
        return sorted(layers)

    def fan_in_fan_out(self, layers: Sequence[str]) -> bool:
        return False

    def _layer(self, layer: str, tensors: dict[str, Tensor]) -> PanaceaSVD:
        try:
            (out_features, _), (_, in_features) = tensors["U"].shape, tensors["Vh"].shape
            with torch.device("meta"):
                svd = PanaceaSVD(
                    in_features,
                    out_features,
                    r=len(tensors["sigma"]) if "sigma" in tensors else 0,
                    preference_rank=self.config.preference_rank,
                    num_objectives=len(self.config.objective_names),
                    factor=self.config.factor(in_features),
                    dropout=0.0,
                    white=self.config.coordinates == "white",
                    scale_per_objective=self.config.scale_per_objective,
                )
            svd.load_state_dict(tensors, assign=True)
        except (KeyError, RuntimeError, ValueError) as error:
            found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(
                f"`path` must hold tensors as its configuration says, but {self.folder} has {found} for {layer}."
            ) from error
        svd.restore_diagonal()
        return svd

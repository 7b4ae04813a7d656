"""An adapter in a model, as what is exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..tuner import PanaceaConfig, PanaceaLayer, PanaceaSVD, first_active
from .source import Source


class ModelSource(Source):
    """One Panacea adapter of a model."""

    def __init__(self, model: PeftModel, adapter_name: str | None) -> None:
        if not isinstance(model, PeftModel):
            raise TypeError(f"`model` must be a PeftModel, but got {type(model).__name__}.")
        self.model, self.name = model, first_active(model, adapter_name)
        self.base_model: nn.Module = model.get_base_model()
        self.config: PanaceaConfig = model.peft_config[self.name]

    def layers(self) -> dict[str, PanaceaSVD]:
        found: dict[str, PanaceaSVD] = {}
        for layer, module in self.base_model.named_modules():
            if isinstance(module, PanaceaLayer) and self.name in module.panacea_svd:
                svd: Any = module.panacea_svd[self.name]
                found[layer] = svd
                if svd.U.is_meta or not svd.U.numel():
                    raise ValueError(f"`model` must hold its whole parameters, but {layer} is sharded or not loaded.")
        return found

    def besides(self) -> dict[str, Tensor]:
        saved = get_peft_model_state_dict(self.model, adapter_name=self.name)
        return {key: tensor.cpu().contiguous() for key, tensor in saved.items() if ".panacea_svd." not in key}

    def target_modules(self, layers: Sequence[str]) -> list[str]:
        return names_of(self.base_model, layers)

    def fan_in_fan_out(self, layers: Sequence[str]) -> bool:
        adapted: list[Any] = [self.base_model.get_submodule(layer) for layer in layers]
        return all(isinstance(layer.get_base_layer(), Conv1D) for layer in adapted)


def names_of(base_model: nn.Module, layers: Sequence[str]) -> list[str]:
    """The last parts of the layers' names, if no other layer has one of them, else the whole names."""
    endings = sorted({layer.rpartition(".")[2] for layer in layers})
    found = [layer for layer, _ in base_model.named_modules() if layer.rpartition(".")[2] in endings]
    return endings if len(found) == len(layers) else sorted(layers)

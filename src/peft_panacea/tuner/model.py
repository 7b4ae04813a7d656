"""The tuner: which layers are adapted, and how a preference travels with one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from peft.utils.other import get_pattern_key
from peft.utils.quantization_utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from . import steering
from .batching import steer_requests, stop_steering_requests
from .config import PanaceaConfig
from .expansion import repeat_preferences_with_rows, stop_repeating_preferences
from .layer import PanaceaLayer, PanaceaLinear
from .preferences import Preferences
from .recomputation import preserve_preference_in_recomputation, stop_preserving_preference
from .state import PreferenceState
from .state_dict import check_state_dict

HEADS = (*SEQ_CLS_HEAD_NAMES, "qa_outputs", "lm_head", "output_projection")
"""How the names of output layers end that transformers' models do not say themselves."""

HALF = {torch.bfloat16, torch.float16}


class PanaceaModel(BaseTuner):
    """
    Adapts a model so that a preference over several objectives steers it at run time.

    The method is described in Zhong et al., "Panacea: Pareto Alignment via Preference Adaptation for LLMs"
    (arXiv 2402.02030).

    Args:
        model ([`torch.nn.Module`]): The model to adapt.
        config ([`PanaceaConfig`]): The configuration of the adapter.
        adapter_name (`str`): The name of the adapter.

    **Attributes**:
        - **model** ([`torch.nn.Module`]) -- The adapted model.
        - **peft_config** (`dict[str, PanaceaConfig]`) -- The configuration of every adapter.
    """

    prefix: str = "panacea_"
    tuner_layer_cls = PanaceaLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _pre_injection_hook(self, model: nn.Module, config: PanaceaConfig, adapter_name: str) -> None:
        config.check_preferences()
        layer = steering.find_layer(model)
        self.preference_state = PreferenceState() if layer is None else layer.preference_state
        preserve_preference_in_recomputation(model, self.preference_state)
        repeat_preferences_with_rows(model, self.preference_state)
        steer_requests(model, self.preference_state)

    def forward(self, *args: Any, preference: Preferences | None = None, **kwargs: Any) -> Any:
        """The base model's, at this preference where `PeftModel` has not taken it, as it does not for every model."""
        if preference is None:
            return super().forward(*args, **kwargs)
        with self._enable_peft_forward_hooks(preference=preference):
            return super().forward(*args, **kwargs)

    def _check_new_adapter_config(self, config: PanaceaConfig) -> None:
        super()._check_new_adapter_config(config)
        config.check_preferences()

    def _prepare_adapter_config(self, peft_config: PanaceaConfig, model_config: dict[str, Any]) -> PanaceaConfig:
        if peft_config.target_modules is None and isinstance(self.model, PreTrainedModel):
            peft_config.target_modules = "all-linear"
            names = _maybe_include_all_linear_layers(peft_config, self.model).target_modules
            # PEFT leaves the heads in for some task types and then fails to make them `modules_to_save`, or to save.
            names = {name for name in names if not name.partition(".")[0].endswith(HEADS)}
            if peft_config.layers_to_transform is not None:  # which full names would disregard
                names = {name.rpartition(".")[2] for name in names}
            peft_config.target_modules = names
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(
        self,
        peft_config: PanaceaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        rank_pattern = peft_config.rank_pattern or {}
        r = rank_pattern.get(get_pattern_key(rank_pattern, current_key), peft_config.r)
        if isinstance(target, PanaceaLinear):
            target.update_layer(adapter_name, peft_config, r)
            return
        quantization_kwargs = get_quantization_kwargs(self.model)
        base_layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = resolve_quantization_backend(base_layer, **quantization_kwargs)
        if not (isinstance(base_layer, nn.Linear | Conv1D) or (backend and backend.layer_type == "linear")):
            raise TypeError(
                "`target_modules` must name `torch.nn.Linear` layers, also quantised, or transformers' `Conv1D`, "
                f"but {current_key!r} is a {type(base_layer).__name__}."
            )
        layer = PanaceaLinear(target, adapter_name, peft_config, r, self.preference_state, **quantization_kwargs)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # To wrap a layer PEFT's method is right. To unwrap one it copies `child.weight`, which not every module that
        # `modules_to_save` and `trainable_token_indices` wrap has.
        if isinstance(new_module, PanaceaLayer):
            super()._replace_module(parent, child_name, new_module, child)
        else:
            setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        """PEFT calls this once before it merges any layer."""
        super()._check_merge_allowed()
        layers = (module for module in self.modules() if isinstance(module, PanaceaLayer))
        if half := HALF & {layer.get_base_layer().weight.dtype for layer in layers}:
            warnings.warn(
                f"Merging rounds every adapted weight to {half.pop()} once more, which moves the logits about as much "
                "as this dtype does by itself, and unmerging does not give the weights back exactly. Call "
                "`model.float()` first and leave the merged model in float32, or keep the adapter unmerged.",
                stacklevel=4,
            )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """As in PEFT, but refused before any layer is merged."""
        self._check_mergeable(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self, merge: bool = True, *, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> nn.Module:
        if merge:
            self._check_mergeable(adapter_names)
        model = super()._unload_and_optionally_merge(merge, adapter_names=adapter_names, **kwargs)
        unhook(model)
        return model

    def _check_mergeable(self, adapter_names: list[str] | None) -> None:
        for module in self.modules():
            if isinstance(module, PanaceaLinear):
                module.mergeable(adapter_names)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PanaceaConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        check_state_dict(model, adapter_name, remapped)
        return remapped

    def set_preference(
        self, preference: Preferences, adapter_name: str | list[str] | None = None, *, extrapolate: bool = False
    ) -> None:
        """See [`peft_panacea.set_preference`]."""
        steering.set_preference(self, preference, adapter_name, extrapolate=extrapolate)

    def get_preference(self, adapter_name: str | None = None) -> Tensor:
        """See [`peft_panacea.get_preference`]."""
        return steering.get_preference(self, adapter_name)

    def get_objectives(self, adapter_name: str | None = None) -> list[str]:
        """See [`peft_panacea.get_objectives`]."""
        return steering.get_objectives(self, adapter_name)

    def nearest_preference(self, preference: Preferences, adapter_name: str | None = None) -> Tensor:
        """See [`peft_panacea.nearest_preference`]."""
        return steering.nearest_preference(self, preference, adapter_name)

    def preference(
        self, preference: Preferences, adapter_name: str | list[str] | None = None, *, extrapolate: bool = False
    ) -> AbstractContextManager[None]:
        """See [`peft_panacea.preference`]."""
        return steering.preference(self, preference, adapter_name, extrapolate=extrapolate)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """What `PeftModel` wraps around every forward and generate: here the `preference` keyword takes effect."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "`adapter_names` must not be given: Panacea has no batches of mixed adapters. Give every row its own "
                "preference instead, `preference=[...]` with one entry per row."
            )
        preference = kwargs.get("preference")
        if preference is None and torch.compiler.is_compiling():  # a scope would break the graph
            yield
            return
        steered = {}
        if preference is not None:
            active = [name for name in self.active_adapters if name in self.preference_state.objectives]
            steered = steering.parse_for(steering.first_layer(self), preference, active)
        with self.preference_state.call(steered):
            yield


def unhook(model: nn.Module) -> None:
    """Take from a model without an adapter what made its methods know the preference."""
    stop_preserving_preference(model)
    stop_repeating_preferences(model)
    stop_steering_requests(model)

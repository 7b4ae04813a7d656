"""PEFT's bookkeeping around `PanaceaSVD`: several adapters on one layer, merging, forward."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils.quantization_utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers.pytorch_utils import Conv1D

from .config import PanaceaConfig
from .state import PreferenceState
from .svd import PanaceaSVD


class PanaceaLayer(BaseTunerLayer):
    """The Panacea adapters of one layer; adapters are told apart by name."""

    adapter_layer_names = ("panacea_svd",)
    other_param_names = ("merged_preferences",)

    def __init__(self, base_layer: nn.Module, preference_state: PreferenceState, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.preference_state = preference_state
        self.panacea_svd = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self.merged_preferences: dict[str, Tensor] = {}
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **kwargs)
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())

    def update_layer(self, adapter_name: str, config: PanaceaConfig, r: int) -> None:
        """Add a freshly initialised adapter with `r` shared singular directions."""
        svd = PanaceaSVD(
            self.in_features,
            self.out_features,
            r=r,
            preference_rank=config.preference_rank,
            num_objectives=len(config.objective_names),
            factor=config.factor(self.in_features),
            dropout=config.panacea_dropout,
            white=config.coordinates == "white",
            scale_per_objective=config.scale_per_objective,
        )
        svd.reset_parameters(**config.initial_std())
        self.panacea_svd[adapter_name] = svd
        default = config.parse_preference(config.initial_preference)
        self.preference_state.add(
            adapter_name, config.objective_names, default, config.preference_bounds, config.named_preferences
        )
        _, dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())
        if dtype is not None and dtype.is_floating_point:
            svd.to(dtype)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's version also casts to the base layer's dtype. It runs after a low-memory load, too, and would round an
        # adapter that was trained and saved in float32 on a bfloat16 base.
        if adapter_name not in self.panacea_svd:
            return
        svd = self.panacea_svd[adapter_name]
        device = device or self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        if device is not None and not svd.scale.is_meta:
            svd.to(device)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.preference_state.remove(adapter_name)


class PanaceaLinear(nn.Module, PanaceaLayer):
    """A linear layer, `nn.Linear`, transformers' `Conv1D` or quantised, with Panacea adapters."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: PanaceaConfig,
        r: int,
        preference_state: PreferenceState,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        PanaceaLayer.__init__(self, base_layer, preference_state, **kwargs)
        self._active_adapter: str | list[str] = adapter_name
        self.update_layer(adapter_name, config, r)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """ΔW at the adapter's current preference, in the shape of the base weight, float32 or better.

        Raises:
            ValueError: every row of the batch has its own preference, so there is no single ΔW.
        """
        return self._delta_weight(adapter_name, self._mergeable_preference(adapter_name))

    def _mergeable_preference(self, adapter_name: str) -> Tensor:
        preference = self.preference_state.get(adapter_name)
        if preference.ndim > 1:
            raise ValueError(
                "`preference` must be the same for the whole batch to give one weight, but adapter "
                f"{adapter_name!r} has {preference.shape[0]} rows; call `set_preference` with one preference first."
            )
        return preference

    def _delta_weight(self, adapter_name: str, preference: Tensor) -> Tensor:
        svd: PanaceaSVD = self.panacea_svd[adapter_name]
        weight = svd.delta_weight(preference.to(svd.scale.device))
        return weight.T if isinstance(self.get_base_layer(), Conv1D) else weight

    def mergeable(self, adapter_names: list[str] | None) -> dict[str, Tensor]:
        """The preferences, [m], at which `merge` of these adapters, the active ones if None, would merge.

        Raises:
            ValueError: one of the adapters has a preference for every row.
        """
        names = self.active_adapters if adapter_names is None else adapter_names
        left = [name for name in names if name in self.panacea_svd and name not in self.merged_adapters]
        return {name: self._mergeable_preference(name) for name in left}

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add ΔW at the current preference to the base weight; the preference is remembered for `unmerge`.

        Args:
            safe_merge: Merge into a copy and refuse, leaving the layer unmerged, if it is not finite.
            adapter_names: The adapters to merge; the active ones if None.
        """
        for name, preference in self.mergeable(check_adapters_to_merge(self, adapter_names)).items():
            weight = self.get_base_weight()
            if safe_merge:
                weight = weight.clone()
            with torch.no_grad():
                weight += self._delta_weight(name, preference).to(weight.device)
            if safe_merge and not torch.isfinite(weight).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            self.set_base_weight(weight)
            self.merged_adapters.append(name)
            self.merged_preferences[name] = preference

    def unmerge(self) -> None:
        """Take back every merge, each at the preference it was made with."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_weight()
            with torch.no_grad():
                weight -= self._delta_weight(name, self.merged_preferences.pop(name)).to(weight.device)
            self.set_base_weight(weight)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # Every line counts: a lookup by `self.base_layer`, or a property, takes as long as a product for one token.
        modules: Any = self._modules
        base_layer, adapters = modules["base_layer"], modules["panacea_svd"]._modules
        if self._disable_adapters or self.merged_adapters:
            if self._disable_adapters and self.merged_adapters:
                self.unmerge()
            return base_layer(x, *args, **kwargs)

        result = base_layer(x, *args, **kwargs)
        dtype = result.dtype
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        # What a hook may have kept is not written into.
        in_place = not (base_layer._forward_hooks or base_layer._backward_hooks or base_layer._backward_pre_hooks)
        in_place = in_place and not torch_module._global_forward_hooks
        active = self._active_adapter
        for name in (active,) if isinstance(active, str) else active:
            svd = adapters.get(name)
            if svd is None:
                continue
            if x.dtype != (expected := svd.Vh.dtype):
                x = self._cast_input_dtype(x, expected)
            held, settled = self.preference_state.held(name)
            result = svd(result, x, held, in_place, settled)
        return result if result.dtype == dtype else result.to(dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def __repr__(self) -> str:
        return "panacea." + super().__repr__()

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)

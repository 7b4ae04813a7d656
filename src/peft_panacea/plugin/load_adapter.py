"""Makes both methods called `load_adapter`, PEFT's and transformers' own, load an adapter whole or not at all."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.integrations import PeftAdapterMixin
from transformers.modeling_utils import load_state_dict

from ..tuner import PanaceaConfig, PanaceaLayer
from ..tuner.model import unhook
from ..tuner.state_dict import check_state_dict
from ..tuner.steering import find_layer

MEANING = ("objectives", "preference_rank", "coordinates", "scaling")
"""The fields of a configuration that decide what tensors of the same shapes do."""


def load_whole_or_not_at_all() -> None:
    """Wrap the two methods; adapters of other kinds they load as before."""
    PeftModel.load_adapter = _taking_back(_comparing(PeftModel.load_adapter))
    PeftAdapterMixin.load_adapter = _taking_back(_checking(PeftAdapterMixin.load_adapter))


def _taking_back(load_adapter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load_adapter)
    def load_or_take_back(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _additions_taken_back(self):
            return load_adapter(self, *args, **kwargs)

    return load_or_take_back


def _comparing(load_adapter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load_adapter)
    def compare_and_load(self: PeftModel, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        own = self.peft_config.get(adapter_name)
        if isinstance(own, PanaceaConfig):  # PEFT loads into it, and does not look at the checkpoint's configuration
            saved = _saved_config(model_id, **kwargs)
            for field in MEANING if isinstance(saved, PanaceaConfig) else ():
                here, there = getattr(own, field), getattr(saved, field)
                if here != there:
                    raise ValueError(
                        f"The checkpoint must have the `{field}` of adapter {adapter_name!r}, {here!r}, "
                        f"but has {there!r}."
                    )
        return load_adapter(self, model_id, adapter_name, *args, **kwargs)

    return compare_and_load


def _saved_config(model_id: Any, **kwargs: Any) -> PeftConfig | None:
    try:
        return PeftConfig.from_pretrained(model_id, **kwargs)
    except ValueError:  # there is none, where one was given instead
        return None


def _checking(load_adapter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load_adapter)
    def check_and_load(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _adapters(self)
        load = self._load_pretrained_model

        def check_and_load_tensors(state_dict: Any, checkpoint_files: Any, load_config: Any, **kwargs: Any) -> Any:
            for name in _adapters(self) - before:
                _check(self, name, state_dict, checkpoint_files, load_config)
            return load(state_dict=state_dict, checkpoint_files=checkpoint_files, load_config=load_config, **kwargs)

        # An instance attribute for the length of the call: here, and not earlier, the adapter is in place, the files
        # are found and the renamings known.
        self._load_pretrained_model = check_and_load_tensors
        try:
            return load_adapter(self, *args, **kwargs)
        finally:
            del self._load_pretrained_model

    return check_and_load


def _check(
    model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor] | None, files: list[str], load_config: Any
) -> None:
    if state_dict is None:  # shapes and types will do
        read = functools.partial(load_state_dict, map_location="meta", weights_only=load_config.weights_only)
        state_dict = {key: tensor for file in files for key, tensor in read(file).items()}
    in_model = model.state_dict()
    mapping = copy.deepcopy(load_config.weight_mapping or [])  # an entry takes note of being used
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    renamed = {}
    for key, tensor in state_dict.items():
        new_key, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, in_model)
        renamed[new_key if new_key in in_model else key] = tensor
    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            for key, new_key in module.adapter_state_dict_load_map(adapter_name).items():
                if f"{name}.{new_key}" not in renamed:
                    raise ValueError(
                        f"The checkpoint of adapter {adapter_name!r} must hold what its configuration saves in full, "
                        f"but `{name}.{key}` is missing."
                    )
    check_state_dict(model, adapter_name, renamed)


def _adapters(model: nn.Module) -> set[str]:
    """The names of this method's adapters, also of one that did not get into all of its layers."""
    configs = getattr(model, "peft_config", {})
    names = {name for name, config in configs.items() if isinstance(config, PanaceaConfig)}
    return names.union(*(module.panacea_svd for module in model.modules() if isinstance(module, PanaceaLayer)))


@contextmanager
def _additions_taken_back(model: nn.Module) -> Iterator[None]:
    """On an error, remove the adapters that were added and undo what adding them did to the rest of the model."""
    before = _adapters(model)
    state: list[tuple[Any, str, Any]] = [(p, "requires_grad", p.requires_grad) for p in model.parameters()]
    for module in model.modules():
        state += [(module, "training", module.training)]
        state += [(module, name, child) for name, child in module._modules.items()]
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            state += [(module, "_active_adapter", module._active_adapter)]
    try:
        yield
    except BaseException:
        added = _adapters(model) - before
        if added:
            for owner, attribute, value in state:
                setattr(owner, attribute, value)
        for name in added:
            _remove(model, name)
        if find_layer(model) is None:  # else the next adapter's state would not be the one that is preserved
            unhook(model)
        raise


def _remove(model: nn.Module, adapter_name: str) -> None:
    # Not `delete_adapter` of either library: it needs the configuration, which PEFT may have taken back by now, and
    # makes the active adapters of the first layer those of the model. New layers are gone already.
    for module in list(model.modules()):
        if isinstance(module, PanaceaLayer):
            module.delete_adapter(adapter_name)
        elif isinstance(module, AuxiliaryTrainingWrapper):
            module.delete_adapter(adapter_name, [name for name in module.active_adapters if name != adapter_name])
    configs = getattr(model, "peft_config", {})
    configs.pop(adapter_name, None)
    if not configs and isinstance(model, PeftAdapterMixin):
        vars(model).pop("peft_config", None)
        model._hf_peft_config_loaded = False

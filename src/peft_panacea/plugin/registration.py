"""Makes PEFT know the method. Inside PEFT it would be four lines."""

from __future__ import annotations

import functools
from typing import Any

from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method


def _add_peft_type(name: str) -> None:
    """Extend the closed enum `PeftType`, which is the key of all of PEFT's mappings."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


def _accept_preference_keyword(config_cls: type) -> None:
    """Let every `PeftModel` with this config consume `preference=` like PEFT's own `adapter_names=`.

    The set of such keywords is written out in `PeftModel.__init__`, out of reach of a tuner.
    """
    init = PeftModel.__init__

    @functools.wraps(init)
    def init_with_preference(self: PeftModel, model: Any, peft_config: Any, *args: Any, **kwargs: Any) -> None:
        init(self, model, peft_config, *args, **kwargs)
        if isinstance(peft_config, config_cls):
            self.special_peft_forward_args.add("preference")

    PeftModel.__init__ = init_with_preference


def register() -> None:
    """Register the method with PEFT, once."""
    if "PANACEA" in PeftType.__members__ and PeftType.PANACEA in PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    _add_peft_type("PANACEA")

    from ..tuner import PanaceaConfig, PanaceaModel
    from .load_adapter import load_whole_or_not_at_all
    from .model_card import say_how_to_steer

    register_peft_method(name="panacea", config_cls=PanaceaConfig, model_cls=PanaceaModel)
    _accept_preference_keyword(PanaceaConfig)
    load_whole_or_not_at_all()
    say_how_to_steer()

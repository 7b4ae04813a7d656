"""The card that PEFT writes with every save says how the adapter is steered."""

from __future__ import annotations

import functools

from peft import PeftModel

from ..card import write_card
from ..tuner import PanaceaConfig


def say_how_to_steer() -> None:
    """Let `PeftModel.save_pretrained` and `push_to_hub` add that part to the card, or renew it."""
    original = PeftModel.create_or_update_model_card

    @functools.wraps(original)
    def create_or_update_model_card(self: PeftModel, output_dir: str) -> None:
        original(self, output_dir)
        configs = [config for config in self.peft_config.values() if isinstance(config, PanaceaConfig)]
        if configs:
            write_card(output_dir, config=configs[0])

    PeftModel.create_or_update_model_card = create_or_update_model_card

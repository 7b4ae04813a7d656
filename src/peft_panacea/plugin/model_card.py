"""The card that PEFT writes with every save says how the adapter is steered."""

from __future__ import annotations

import functools
from pathlib import Path

from peft import PeftModel

from ..card import renew
from ..tuner import PanaceaConfig


def say_how_to_steer() -> None:
    """Let `PeftModel.save_pretrained` and `push_to_hub` add that part to the card, or renew it.

    What was measured is left out, because it was of the weights that are overwritten, perhaps.
    """
    original = PeftModel.create_or_update_model_card

    @functools.wraps(original)
    def create_or_update_model_card(self: PeftModel, output_dir: str) -> None:
        original(self, output_dir)
        configs = [config for config in self.peft_config.values() if isinstance(config, PanaceaConfig)]
        if configs:
            renew(Path(output_dir), configs[0])

    PeftModel.create_or_update_model_card = create_or_update_model_card

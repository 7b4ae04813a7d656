"""Speaks when the completions of a training by rewards degenerate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from statistics import fmean
from typing import Any, Literal

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)

RISE = {"entropy": 1.0, "base_log_perplexity": 1.5, "completions/clipped_ratio": 0.5}
"""How far each number may rise above where it began.

Entropy, in nats: at +1 a token is drawn from among e times as many. Log-perplexity under the base model, in nats per
token: it rises by as much as the entropy, and by the KL divergence. Share cut off: half of all completions, which had
ended before.
"""

ADVICE = (
    "raise `beta` (now {beta}), which holds the model near the base model; lower `learning_rate` (now "
    "{learning_rate}); take fewer steps; read what the rewards pay for, since words that are no words may please a "
    "count"
)
CUT_OFF = "; raise `max_completion_length` (now {max_completion_length}) if answers are meant to be that long"


class DegenerationGuard(TrainerCallback, ExportableState):
    """Compares the completions of every step with those of the first, when the model was the base model.

    It looks at what `ObjectiveRewardMixin` tells it, which is also logged: the entropy of a token, the log-perplexity
    of the completions under the base model and the share that was cut off. A number that has risen by more than `RISE`
    allows is degenerate, whatever the rewards say. A fall is not: learning a reward looks like that.

    It speaks at the end of the step, whether that is logged or not. Where the numbers began is kept in the checkpoint.

    Args:
        action: `"stop"`: say so and train no further; the adapter stays as it is, to be saved and looked at. `"warn"`:
            say so once for each of the numbers, and go on.

    Raises:
        ValueError: `action` is something else.
    """

    def __init__(self, action: Literal["stop", "warn"] = "stop") -> None:
        if action not in ("stop", "warn"):
            raise ValueError(f"`action` must be one of ['stop', 'warn'], but got {action!r}.")
        self.action = action
        self.beginning: dict[str, float] = {}
        self._of_this_step: dict[str, list[float]] = {}
        self._said: set[str] = set()

    def see(self, numbers: Mapping[str, float]) -> None:
        """Take numbers of the current step, by the names in `RISE`; several of one name are averaged."""
        for name, number in numbers.items():
            self._of_this_step.setdefault(name, []).append(number)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.beginning, self._of_this_step, self._said = {}, {}, set()
        # A state that was read from a checkpoint has no place for callbacks that it did not know.
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if state.global_step:
            self.beginning = stored["attributes"]["beginning"]
            if not self.beginning:
                logger.warning(
                    "The checkpoint was trained without a guard; completions are compared with those of step %d.",
                    state.global_step + 1,
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = {name: fmean(numbers) for name, numbers in self._of_this_step.items()}
        self._of_this_step = {}
        risen = {}
        for name, number in found.items():
            began = self.beginning.setdefault(name, number)
            if number - began > RISE[name] and name not in self._said:
                risen[name] = f"`{name}` went from {began:.2f} to {number:.2f} (at most {RISE[name]} more is allowed)"
        if not risen:
            return
        self._said |= risen.keys()
        if state.is_world_process_zero:
            end = "Training stops; the adapter stays as it is." if self.action == "stop" else "Training goes on."
            advice = (ADVICE + CUT_OFF * ("completions/clipped_ratio" in risen)).format_map(vars(args))
            changes = " and ".join(risen.values())
            logger.warning(
                "The completions degenerate: %s by step %d. %s What to change: %s.",
                changes,
                state.global_step,
                end,
                advice,
            )
        if self.action == "stop":
            control.should_training_stop = control.should_log = True

    def state(self) -> dict[str, Any]:
        return {"args": {"action": self.action}, "attributes": {"beginning": self.beginning}}

"""The line of the log that a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from .steering_log import is_steered, objectives_in


class SteeringLine(TrainerCallback):
    """Prints one line of every log that says something about steering or completions, beside the progress bar."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        text = describe(logs)
        if state.is_world_process_zero and text:
            tqdm.write(f"step {state.global_step}  {text}")


def describe(logs: Mapping[str, Any]) -> str:
    """What a log says, in one line: of each objective the mean at low and at high own weight, and whether it steers.

    Completions add their KL divergence from the reference if TRL has one, in nats per token, their mean length and the
    share that ended. A log with nothing of all this is an empty line.
    """
    names = objectives_in(logs)
    parts = [f"{name} {logs[f'steering/{name}/low']:.3g} → {logs[f'steering/{name}/high']:.3g}" for name in names]
    if names:
        what = "reward" if f"steering/{names[0]}/error" in logs else "loss"
        parts.append(f"({what}, low → high own weight)")
    if logs.get("kl") is not None:
        parts.append(f"KL {logs['kl']:.3f}")
    if "completions/mean_length" in logs:
        parts.append(f"{logs['completions/mean_length']:.0f} tokens")
        parts.append(f"ended {100 * (1 - logs['completions/clipped_ratio']):.0f} %")
    return "  ".join([*parts, _verdict(logs, names)]) if parts else ""


def _verdict(logs: Mapping[str, Any], names: list[str]) -> str:
    if not names:
        return "too early to say whether it steers"
    steered = [name for name in names if is_steered(logs, name)]
    if not steered:
        return "does not steer yet"
    missing = [name for name in names if name not in steered]
    return f"steers, not yet in {', '.join(missing)}" if missing else "steers"


def print_lines_only(trainer: Any) -> None:
    """Keep the progress bar of a trainer, but print none of its numbers: the lines are enough.

    What is logged, to trackers and in `state.log_history`, stays the same.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, PrinterCallback | ProgressCallback):
            callback.on_log = TrainerCallback().on_log

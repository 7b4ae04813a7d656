"""Texts as what is said in a chat."""

from __future__ import annotations

from typing import Any

from .shapes import Text

SAID = ("completion", "chosen", "rejected")
"""Columns of what the assistant says."""


def is_chat(prompt: Text, tokenizer: Any, *, plain: bool = False, system_prompt: str | None = None) -> bool:
    """Whether prompts like this one go through the tokenizer's chat template: messages always, a text unless `plain`.

    Args:
        prompt: One of the prompts; all are texts or all are messages.
        tokenizer: The model's. Without a chat template texts are continued as they are.
        plain: Texts are continued as they are, whatever the tokenizer has.
        system_prompt: What is to be said before.

    Raises:
        ValueError: messages without a template, or a system prompt for texts that are continued as they are.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if not isinstance(prompt, str) and not has_template:
        raise ValueError("`prompt` must be a text, because the tokenizer has no chat template, but got messages.")
    chat = not isinstance(prompt, str) or (has_template and not plain)
    if system_prompt is not None and not chat:
        why = "`plain` says so" if has_template else "the tokenizer has no chat template"
        raise ValueError(
            f"`system_prompt` must be None for texts that are continued as they are, because {why}, but got "
            f"{system_prompt!r}."
        )
    return chat


def chat_prompt(prompt: Text, system_prompt: str | None = None) -> list[dict[str, str]]:
    """The prompt as messages: a text is what the user says. `system_prompt` comes first where there is none."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_prompt is None or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def chat_row(row: dict[str, Any], system_prompt: str | None = None) -> dict[str, Any]:
    """The row with its texts as messages: those of `prompt` by `chat_prompt`, completions as the assistant's.

    White space around a completion, which separated it from its prompt, goes; the template separates them.
    """
    said = {
        name: [{"role": "assistant", "content": row[name].strip()}] for name in SAID if isinstance(row.get(name), str)
    }
    return {**row, "prompt": chat_prompt(row["prompt"], system_prompt), **said}

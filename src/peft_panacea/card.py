"""The model card: the part of an adapter's `README.md` that says how it is steered and what that attains."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard

from .licence import licence_of
from .tuner import PanaceaConfig, in_words

if TYPE_CHECKING:
    from .front import Front

BEGIN = "<!-- peft-panacea: written anew with every save, down to the line that says end -->"
END = "<!-- peft-panacea: end -->"
CARD, FRONT, PICTURE = "README.md", "front.json", "front.png"

NEW = """---
library_name: peft
---

# {name}

<!-- Say what it is for. All but the part of peft-panacea stays as you write it. -->

## Objectives

<!-- Say what each of them means, and which data or reward taught it. -->

{objectives}

## Training

<!-- Say what it was trained on and how. -->

### Framework versions

"""
STEER = """
**Needs the package `peft-panacea`.** Without `import peft_panacea`, PEFT and transformers do not know this kind of
adapter and stop with `KeyError: 'PANACEA'`.

## Steering

This adapter follows a preference over {objectives}: weights of at least 0 that sum to 1, for a whole batch or for
each of its rows, at no cost. The method is Panacea ([paper](https://arxiv.org/abs/2402.02030)).

```python
import peft_panacea

model = peft_panacea.load("{name}")
model.set_preference({preference})
```
{named}
{base}

At one preference the adapter is a plain LoRA of rank {rank}, which `peft-panacea export` writes for programs that know
no other kind.
{measured}
### Limits

Whoever runs the model chooses the preference, and can turn an objective down to {least}. A preference weighs the
rewards or data of the training, not wishes, and its weights are no shares of a result.

{licence}

"""
MEASURED = """
### What each preference attains

{unit}; {prompts}{rewards}:

```text
{described}
```
{normalisation}{reference}{picture}
`{file}` has the scores of every prompt. Numbers say what the rewards say: read answers before you trust them.
{how}"""


def write_card(folder: str | os.PathLike[str], front: Front | None = None) -> Path:
    """Write or renew the part of a folder's `README.md` that is about steering; all else in it stays as it is.

    It says how to load and steer the adapter and, if there is a front, what each preference attains. The metadata get
    what the Hub looks for, and keep what they have.

    Args:
        folder: Of an adapter.
        front: What was measured; if None what `front.json` in the folder holds, if there is one.

    Returns:
        The path of the card.

    Raises:
        ValueError: the folder's adapter is of another kind, or the front has other objectives.
    """
    path = Path(folder) / CARD
    replace_text(path, card_text(folder, front))
    return path


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def card_text(
    folder: str | os.PathLike[str],
    front: Front | None = None,
    *,
    name: str | None = None,
    card: str | None = None,
    online: bool = False,
) -> str:
    """The same as text.

    Args:
        folder: Of an adapter.
        front: As of `write_card`.
        name: By which it is loaded; None for a word in its place.
        card: What stands in the card so far, if that is not the folder's.
        online: Whether it is for others: then the Hub is asked for the licence of the base model, and folders of this
            machine are left out of the metadata.

    Raises:
        ValueError: as `write_card`.
    """
    folder = Path(folder)
    config = PanaceaConfig.from_pretrained(folder)
    if not isinstance(config, PanaceaConfig):
        raise ValueError(f"`folder` must hold a Panacea adapter, but {folder} has one of {config.peft_type}.")
    if front is None and (folder / FRONT).exists():
        from .front import Front  # which a save without a front need not load

        front = Front.from_json(folder / FRONT)
    if front is not None and list(front.objectives) != config.objective_names:
        raise ValueError(f"`front` must be over {config.objective_names}, but got one over {list(front.objectives)}.")
    if card is None:
        path = folder / CARD
        card = path.read_text(encoding="utf-8") if path.exists() else new_card(name or folder.resolve().name, config)
    measured = "" if front is None else _measured(front, has_picture=(folder / PICTURE).exists())
    return renewed(card, config, measured, name=name, online=online)


def new_card(name: str, config: PanaceaConfig) -> str:
    """A card in which nothing has been written yet, with room for what only its owner knows."""
    return NEW.format(name=name, objectives="\n".join(f"- **{objective}**:" for objective in config.objective_names))


def renewed(
    text: str, config: PanaceaConfig, measured: str = "", *, name: str | None = None, online: bool = False
) -> str:
    """A card with its part about steering written anew, with what was measured as text; see `card_text`."""
    licence = licence_of(config.base_model_name_or_path, online=online)
    part = f"{BEGIN}\n{_steering(config, name, measured, licence)}{END}"
    card = ModelCard(text, ignore_metadata_errors=True)
    if BEGIN in card.text and END in card.text:
        body = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: part, card.text, count=1, flags=re.DOTALL)
    else:  # in front of the first section
        first, heading, rest = card.text.partition("\n## ")
        body = f"{first.rstrip()}\n\n{part}\n{heading}{rest}"
    card.text = body
    data: Any = card.data
    data.library_name = "peft"
    data.tags = sorted({*(data.get("tags") or []), "peft-panacea", "steerable"})
    if not is_on_the_hub(data.get("base_model")):
        if is_on_the_hub(config.base_model_name_or_path):
            data.base_model = config.base_model_name_or_path
        elif online:  # a folder of this machine says nothing to others
            data.base_model = None
    if online:
        data.tags = [tag for tag in data.tags if is_on_the_hub(tag.partition("base_model:adapter:")[2] or "none")]
    if not data.get("license"):
        for field, value in licence.items():
            data[field] = value
    return str(card)


def is_on_the_hub(base_model: str | None) -> bool:
    """Whether others may know it by this name; a folder of this machine they do not."""
    return bool(base_model) and not os.path.isdir(str(base_model)) and str(base_model).count("/") <= 1


def _steering(config: PanaceaConfig, name: str | None, measured: str, licence: dict[str, str]) -> str:
    names, base = config.objective_names, config.base_model_name_or_path
    weights = dict(zip(names, map(float, config.initial_preference), strict=True))
    preference = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {weight:.8g}" for name, weight in weights.items())
    said = f"The base model is `{base}`, which is loaded with it."
    if not is_on_the_hub(base):
        said = (
            f"The base model was in the folder `{base}`. Who has it elsewhere loads it first, and gives both to\n"
            "`PeftModel.from_pretrained`."
        )
    bounds = config.preference_bounds
    least = f"what its bounds allow ({in_words(bounds)}), which they can change" if bounds else "0"
    known = licence.get("license_name") or licence.get("license")
    return STEER.format(
        objectives=", ".join(f"**{name}**" for name in names),
        name=name or "PATH",
        preference="{" + preference + "}",
        named=_names(config),
        base=said if base else "Its configuration names no base model.",
        rank=config.lora_rank,
        measured=measured,
        least=least,
        licence=f"The licence of the base model{f' ({known})' if known else ''} holds for what is made with it.",
    )


def _names(config: PanaceaConfig) -> str:
    """The preferences that have names."""
    lines = []
    for name, values in (config.named_preferences or {}).items():
        weights = ", ".join(f"{o} {v:.4g}" for o, v in zip(config.objective_names, values, strict=True))
        lines.append(f'- `"{name}"`: {weights}')
    return (
        "\n".join(["\nSome preferences have names, as in `model.set_preference(NAME)`:\n", *lines, ""])
        if lines
        else ""
    )


def _measured(front: Front, *, has_picture: bool) -> str:
    from .front import describe

    details, names = front.details, front.objectives
    constants = corner = ""
    if front.normalisation is not None:
        each = zip(names, *front.normalisation, strict=True)
        said = ", ".join(f"{name} {mean:.3g} ± {std:.3g}" for name, mean, std in each)
        constants = f"\nThe normalisation, of the base model's completions: {said}.\n"
    if front.reference is not None or front.base is not None:
        said = ", ".join(f"{name} {value:.3g}" for name, value in zip(names, front.reference_point(), strict=True))
        corner = f"\nThe reference point of the hypervolume: {said}.\n"
    prompts, samples, rewards = front.scores.shape[1], details.get("samples"), details.get("rewards")
    return MEASURED.format(
        unit=str(details.get("unit", "scores")).capitalize(),
        prompts=f"{prompts} prompts" + (f", {samples} completions each" if samples else ""),
        rewards="; " + ", ".join(f"{name} is `{reward}`" for name, reward in rewards.items()) if rewards else "",
        described=describe(front),
        normalisation=constants,
        reference=corner,
        picture=f"\n![What each preference attains]({PICTURE})\n" if has_picture else "",
        file=FRONT,
        how=_how(details),
    )


def _how(details: Any) -> str:
    generation = details.get("generation", {})
    said = [f"seed {details['seed']}"] if "seed" in details else []
    if "max_new_tokens" in generation:
        said.append(f"up to {generation['max_new_tokens']} tokens")
    if "temperature" in generation:
        said.append(f"temperature {generation['temperature']:g}")
    said += [f"{package} {version}" for package, version in details.get("versions", {}).items()]
    how = f"\nMeasured with {', '.join(said)}.\n" if said else ""
    return how + (f"\n```sh\n{details['command']}\n```\n" if details.get("command") else "")

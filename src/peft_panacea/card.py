"""The model card: the part of an adapter's `README.md` that says how it is steered and what that attains."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard

from .tuner import PanaceaConfig

if TYPE_CHECKING:
    from .front import Front

BEGIN = "<!-- peft-panacea: written anew with every save, down to the line that says end -->"
END = "<!-- peft-panacea: end -->"
FRONT, PICTURE = "front.json", "front.png"
AUTO_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""By the task of a configuration, PEFT's class that loads base model and adapter."""

STEER = """
## Steering

This adapter follows a preference over {objectives}: weights of at least 0 that sum to 1, for a whole batch or for
each of its rows, at no cost. It is of the method Panacea ([paper](https://arxiv.org/abs/2402.02030)), in the package
`peft-panacea`.

```python
import peft_panacea  # before loading: PEFT does not know the method without it
from peft import {auto_class}

model = {auto_class}.from_pretrained("PATH")  # this folder, or this repository
model.set_preference({preference})
```

At one preference it is a plain LoRA, which `peft-panacea export` writes for programs that know no other kind.

Whoever runs the model chooses the preference, and can turn an objective down to 0. The licence of the base model holds
for what is made with it.
"""
MEASURED = """
### What each preference attains

{unit}; {prompts}:

```text
{described}
```
{normalisation}{picture}
`{file}` has the scores of every prompt and how they were measured. Numbers say what the rewards say: read answers
before you trust them.
"""


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
    folder = Path(folder)
    config = PanaceaConfig.from_pretrained(folder)
    if not isinstance(config, PanaceaConfig):
        raise ValueError(f"`folder` must hold a Panacea adapter, but {folder} has one of {config.peft_type}.")
    if front is None and (folder / FRONT).exists():
        from .front import Front  # which a save without a front need not load

        front = Front.from_json(folder / FRONT)
    if front is not None and list(front.objectives) != config.objective_names:
        raise ValueError(f"`front` must be over {config.objective_names}, but got one over {list(front.objectives)}.")
    return renew(folder, config, _measured(front, folder) if front is not None else "")


def renew(folder: Path, config: PanaceaConfig, measured: str = "") -> Path:
    """The same for a configuration that is known, with what was measured as text."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {folder.name}\n"
    part = f"{BEGIN}\n{_steering(config)}{measured}{END}"
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
    if not data.get("base_model") and config.base_model_name_or_path:
        data.base_model = config.base_model_name_or_path
    partial = path.with_name(path.name + ".partial")
    partial.write_text(str(card), encoding="utf-8")
    os.replace(partial, path)
    return path


def _steering(config: PanaceaConfig) -> str:
    names = config.objective_names
    weights = dict(zip(names, map(float, config.initial_preference), strict=True))
    preference = ", ".join(f'"{name}": {weight:.4g}' for name, weight in weights.items())
    return STEER.format(
        objectives=", ".join(f"**{name}**" for name in names),
        auto_class=AUTO_CLASSES.get(config.task_type or "", "AutoPeftModel"),
        preference="{" + preference + "}",
    )


def _measured(front: Front, folder: Path) -> str:
    from .front import describe

    constants = ""
    if front.normalisation is not None:
        each = zip(front.objectives, *front.normalisation, strict=True)
        said = ", ".join(f"{name} {mean:.3g} ± {std:.3g}" for name, mean, std in each)
        constants = f"\nThe normalisation, of the base model's completions: {said}.\n"
    prompts, samples = front.scores.shape[1], front.details.get("samples")
    return MEASURED.format(
        unit=str(front.details.get("unit", "scores")).capitalize(),
        prompts=f"{prompts} prompts" + (f", {samples} completions each" if samples else ""),
        described=describe(front),
        normalisation=constants,
        picture=f"\n![What each preference attains]({PICTURE})\n" if (folder / PICTURE).exists() else "",
        file=FRONT,
    )

"""What an exported folder says about itself."""

from __future__ import annotations

from collections.abc import Mapping

from ..tuner import PanaceaConfig

HEAD = """---
{base}library_name: peft
tags: [lora, peft-panacea]
---
"""

AT_PREFERENCE = """
# LoRA adapter at one preference

Exported from a Panacea adapter at the preference {preference}. It is a plain LoRA adapter and gives the same model as
the Panacea adapter at this preference; it cannot be steered any further.

```py
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "FOLDER")
```

In bfloat16 or float16 leave it unmerged: merging rounds the sum of two weights.
"""

BASIS = """
# LoRA adapters that add up to any preference

Exported from a Panacea adapter with the objectives {objectives}. The sum of these adapters, each times its weight, is
the Panacea adapter at a preference:

| adapter | weight |
|---|---|
{rows}

`basis.json` says the same. Weights outside the simplex (below 0, or with another sum) work and extrapolate; no server
knows which preferences the adapter was trained or is meant for.

```py
from peft import PeftModel

weights = {weights}
names = list(weights)
model = PeftModel.from_pretrained(base_model, f"FOLDER/{{names[0]}}", adapter_name=names[0])
for name in names[1:]:
    model.load_adapter(f"FOLDER/{{name}}", adapter_name=name)
model.add_weighted_adapter(names, list(weights.values()), "mixture", combination_type="cat")
model.set_adapter("mixture")
```
"""


def of_preference(config: PanaceaConfig, preference: Mapping[str, float]) -> str:
    """README of a LoRA adapter at one preference."""
    said = ", ".join(f"{name} {weight:.6g}" for name, weight in preference.items())
    return _head(config) + AT_PREFERENCE.format(preference=said)


def of_basis(config: PanaceaConfig, weights: Mapping[str, float | str]) -> str:
    """README of a basis; the weight of an adapter is a number, or the objective whose entry of a preference it is."""
    m = len(config.objective_names)
    rows = [f"| `{name}` | {weight:g} |" if isinstance(weight, float) else f"| `{name}` | the entry of {weight} |"
            for name, weight in weights.items()]  # fmt: skip
    example = {name: weight if isinstance(weight, float) else round(1 / m, 3) for name, weight in weights.items()}
    objectives = ", ".join(config.objective_names)
    return _head(config) + BASIS.format(objectives=objectives, rows="\n".join(rows), weights=example)


def _head(config: PanaceaConfig) -> str:
    base = config.base_model_name_or_path
    return HEAD.format(base=f"base_model: {base}\n" if base else "")

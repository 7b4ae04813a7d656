"""What an exported folder says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..tuner import PanaceaConfig, in_words

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
knows which preferences the adapter was trained or is meant for.{meant}

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

GGUF = """
# GGUF adapters that add up to any preference

Exported from a Panacea adapter with the objectives {objectives}. Weighed as below they add up to the adapter at a
preference:

| file | weight |
|---|---|
{rows}

```bash
llama-server -m BASE.gguf --lora {files} --cache-ram 0
```

Every request then says all weights, by the position of the file, and does without the prompt cache, which does not
know that the weights have changed:

```json
{{"prompt": "…", "cache_prompt": false, "lora": {request}}}
```

A request without `lora`, or with an empty one, has every adapter at weight 1, which is no preference at all. Weights
outside the simplex (below 0, or with another sum) work and extrapolate; no server knows which preferences the adapter
was trained or is meant for.{meant}
"""


def of_preference(config: PanaceaConfig, preference: Mapping[str, float]) -> str:
    """README of a LoRA adapter at one preference."""
    said = ", ".join(f"{name} {weight:.6g}" for name, weight in preference.items())
    return _head(config) + AT_PREFERENCE.format(preference=said)


def of_basis(config: PanaceaConfig, weights: Mapping[str, float | str]) -> str:
    """README of a basis; the weight of an adapter is a number, or the objective whose entry of a preference it is."""
    objectives, rows, example = _basis(config, weights)
    return _head(config) + BASIS.format(objectives=objectives, rows=rows, weights=example, meant=_meant(config))


def of_gguf(config: PanaceaConfig, weights: Mapping[str, float | str]) -> str:
    """README of a basis as GGUF files."""
    objectives, rows, example = _basis(config, weights)
    request = json.dumps([{"id": i, "scale": weight} for i, weight in enumerate(example.values())])
    files = ",".join(f"{name}.gguf" for name in weights)
    return _head(config) + GGUF.format(
        objectives=objectives, rows=rows, files=files, request=request, meant=_meant(config)
    )


def _basis(config: PanaceaConfig, weights: Mapping[str, float | str]) -> tuple[str, str, dict[str, float]]:
    """The objectives, the rows of a table and the weights at the default preference."""
    default = dict(zip(config.objective_names, config.initial_preference, strict=True))
    rows = [f"| `{name}` | {weight:g} |" if isinstance(weight, float) else f"| `{name}` | the entry of {weight} |"
            for name, weight in weights.items()]  # fmt: skip
    example = {
        name: weight if isinstance(weight, float) else round(default[weight], 3) for name, weight in weights.items()
    }
    return ", ".join(config.objective_names), "\n".join(rows), example


def _meant(config: PanaceaConfig) -> str:
    if not config.preference_bounds:
        return ""
    return f" This one is meant for {in_words(config.preference_bounds)}; check that where requests come in."


def _head(config: PanaceaConfig) -> str:
    base = config.base_model_name_or_path
    return HEAD.format(base=f"base_model: {base}\n" if base else "")

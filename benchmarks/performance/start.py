"""Beginnings: importing, loading an adapter onto a model that has no memory yet, the first token of a new process."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

import embedded

from . import sides
from .sides import Rank, Shape
from .timing import Case, alternate, ratio, row

FIRST_TOKEN = """
import torch
{imports}
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained({folder!r})
{steer}
model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=1, do_sample=False)
"""


def process(code: str) -> Callable[[], None]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) and None


def imports(budget: float) -> dict[str, Any]:
    found = alternate({"peft": process("import peft"), "peft_panacea": process("import peft_panacea")}, budget)
    return row(found, "s", **{"over peft": ratio(found, "peft_panacea", "peft")})


def first_token(budget: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        lora = sides.lora(embedded.load()[0].unload(), Rank())
        lora.peft_config["default"].base_model_name_or_path = str(embedded.STORYTELLER / "model")
        lora.save_pretrained(folder)
        adapter = str(embedded.STORYTELLER / "adapter")
        steered = {"imports": "import peft_panacea", "steer": "model.set_preference([0.3, 0.7])"}
        turns = alternate(
            {
                "LoRA": process(FIRST_TOKEN.format(folder=folder, imports="", steer="")),
                "Panacea": process(FIRST_TOKEN.format(folder=adapter, **steered)),
            },
            budget,
        )
    return row(turns, "s", **{"over LoRA": ratio(turns, "Panacea", "LoRA")})


def on_meta(shape: Shape, budget: float) -> dict[str, Any]:
    """An adapter from its file onto a base without memory, `low_cpu_mem_usage=True`; making the base is not timed."""
    with torch.device("meta"):
        base = sides.base.__wrapped__(shape)

    def load(folder: Path) -> Callable[[], float]:
        def timed() -> float:
            model = sides.share(base)
            start = time.perf_counter()
            PeftModel.from_pretrained(model, folder, low_cpu_mem_usage=True)
            return time.perf_counter() - start

        return timed

    found: dict[str, Callable[[], float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = sides.base(shape)
        for name, model in (("LoRA", sides.lora(whole, Rank())), ("Panacea", sides.panacea(whole, Rank()))):
            model.save_pretrained(Path(folder, name))
            found[name] = load(Path(folder, name))
        turns = alternate(found, budget)
    return row(turns, **{"over LoRA": ratio(turns, "Panacea", "LoRA")})


def cases(quick: bool) -> Iterator[Case]:
    budget = 0 if quick else 30
    shape = sides.TINY[0] if quick else Shape("24 layers of width 256", 256, 24)
    yield "start: import", "cpu", partial(imports, budget)
    yield f"start: loading onto meta, {shape.name}", "cpu", partial(on_meta, shape, budget / 2)
    yield "start: first token", "cpu", partial(first_token, budget)

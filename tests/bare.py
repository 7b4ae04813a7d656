"""What the wheel does without extras: it steers, saves, loads, and names the extra that is missing.

`make package` runs this where only the wheel and what it requires are installed, with the checkout out of reach.
"""

import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import peft_panacea.aggregation  # this and the next five are only imported: none needs an extra
import peft_panacea.convert
import peft_panacea.rewards
import peft_panacea.serving.resolver
import peft_panacea.simplex
import peft_panacea.training
from peft_panacea import PanaceaConfig
from peft_panacea.metrics import hypervolume

PROMPT = {"input_ids": torch.arange(3, 11)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
PREFERENCES = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()


def adapted() -> PeftModel:
    model = get_peft_model(llama(), PanaceaConfig(objectives=["helpful", "harmless"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # as if trained; a new adapter changes nothing
                parameter.normal_(std=0.5)
    return model.eval()


def written(model: PeftModel, **preference: object) -> list[list[int]]:
    prompt = {name: tensor.expand(len(preference.get("preference", [0])), -1) for name, tensor in PROMPT.items()}
    return model.generate(**prompt, **preference, do_sample=False, min_new_tokens=12, max_new_tokens=12).tolist()


@torch.no_grad()
def logits(model: PeftModel) -> Tensor:
    return model(**PROMPT).logits


def check_steering(model: PeftModel) -> None:
    alone = []
    for preference in PREFERENCES:
        model.set_preference(preference)
        alone += written(model)
    assert len({tuple(row) for row in alone}) == len(PREFERENCES), "every preference has its own completion"
    assert written(model, preference=PREFERENCES) == alone, "rows of one batch are as if each were alone"
    with model.preference({"helpful": 1.0, "harmless": 0.0}):
        assert written(model) == alone[:1]
    assert model.get_preference().tolist() == PREFERENCES[-1], "as before the block"


def check_saving(model: PeftModel) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(llama(), folder).eval()
    for preference in PREFERENCES:
        with model.preference(preference), loaded.preference(preference):
            torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def figures() -> None:
    from peft_panacea.plots import plot_fronts  # noqa: F401


def rows() -> None:
    from peft_panacea.data import json_preferences

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        path.write_text('[{"text": "Of course.", "objective": "helpful"}]')
        json_preferences(path, ["helpful"])


def metric() -> None:
    hypervolume([[1.0, 1.0]], [0.0, 0.0])


def check_missing(extra: str, use: Callable[[], None]) -> None:
    said = "nothing"
    try:
        use()
    except ModuleNotFoundError as error:
        said = str(error)
    assert f"`pip install peft-panacea[{extra}]`" in said, f"{use.__name__} says {said}"


if __name__ == "__main__":
    found = Path(peft_panacea.__file__)
    assert found.is_relative_to(sys.prefix), f"this is not the wheel's: {found}"
    model = adapted()
    check_steering(model)
    check_saving(model)
    check_missing("eval", figures)
    check_missing("eval", metric)
    check_missing("train", rows)
    installed = len(list(metadata.distributions()))
    print(f"peft-panacea {metadata.version('peft-panacea')} works without extras, among {installed} distributions")

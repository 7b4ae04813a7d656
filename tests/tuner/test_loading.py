"""Damaged adapter folders: an error that says what is wrong, or what docs/loading.md says instead."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load, save_file
from torch import Tensor

import peft_panacea
from conftest import llama, randomise, steered
from peft_panacea import PanaceaConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DOWN = "base_model.model.model.layers.0.mlp.down_proj"
U, SCALE = f"{DOWN}.panacea_svd.U", f"{DOWN}.panacea_svd.scale"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "loading.md"

Damage = Callable[[Path], object]


def tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Damage:
    return lambda folder: save_file(change(load((folder / WEIGHTS).read_bytes())), folder / WEIGHTS)


def with_tensor(key: str, change: Callable[[Tensor], Tensor]) -> Damage:
    return tensors(lambda saved: {**saved, key: change(saved.get(key, torch.ones(2)))})


def config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        saved = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**saved, **changes}))

    return damage


def without_peft_type(folder: Path) -> None:
    saved = json.loads((folder / CONFIG).read_text())
    del saved["peft_type"]
    (folder / CONFIG).write_text(json.dumps(saved))


def to_lora(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"U": "lora_B.weight", "V": "lora_A.weight"}
    split = {key.rpartition(".panacea_svd."): tensor for key, tensor in saved.items()}
    return {f"{layer}.{names[name]}": tensor for (layer, _, name), tensor in split.items() if name in names}


class Case(NamedTuple):
    """What each loader does with a damage, as a pattern of the outcome; `added` is None if as `peft`."""

    damage: Damage
    peft: str  # PeftModel.from_pretrained
    native: str  # transformers' load_adapter
    added: str | None = None  # PeftModel.load_adapter on a live model


def rule(shape: str, got: str, key: str = U) -> str:
    return f"ValueError: `{key}` must have shape {shape} .* but got {got}"


HEADER = "SafetensorError: Error while deserializing header"
SIZES = "RuntimeError: You set `ignore_mismatched_sizes` to `False`"
Q = "base_model.model.model.layers.0.self_attn.q_proj.panacea_svd.U"

CASES = {
    "none": Case(lambda folder: None, "loads$", "loads$"),
    "weights file cut off": Case(
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000]), HEADER, HEADER
    ),
    "weights file empty": Case(lambda folder: (folder / WEIGHTS).write_bytes(b""), HEADER, HEADER),
    "weights file of random bytes": Case(
        lambda folder: (folder / WEIGHTS).write_bytes(bytes(range(256)) * 16), HEADER, HEADER
    ),
    "weights file a pickle": Case(lambda folder: torch.save({U: torch.ones(2)}, folder / WEIGHTS), HEADER, HEADER),
    "weights file absent": Case(
        lambda folder: (folder / WEIGHTS).unlink(), "HFValidationError: Repo id", f"FileNotFoundError: .*{WEIGHTS}"
    ),
    "tensors of LoRA": Case(
        tensors(to_lora), "ValueError: .* 56 tensors .* 56 are missing", "reports 56 missing, 28 unexpected"
    ),
    "a tensor missing": Case(
        tensors(lambda saved: {key: saved[key] for key in saved if key != U}),
        f"ValueError: .* 56 tensors .* 1 is missing, `{U}`",
        "reports 1 missing, 0 unexpected",
    ),
    "all tensors missing": Case(
        tensors(lambda saved: {}), "ValueError: .* 56 tensors .* 56 are missing", "reports 56 missing, 0 unexpected"
    ),
    "tensors of a layer that is not there": Case(
        with_tensor(U.replace("layers.0", "layers.7"), torch.clone),
        "ValueError: .* 56 tensors .* 1 is no part of it, `.*layers.7",
        "reports 0 missing, 1 unexpected",
    ),
    "LoRA tensors besides": Case(
        with_tensor(f"{DOWN}.lora_A.weight", torch.clone),
        f"warns: .* no place for: 1 is ignored, `{DOWN}.lora_A.weight`",
        "reports 0 missing, 1 unexpected",
    ),
    "U of another shape": Case(with_tensor(U, lambda t: t[:, :3].clone()), rule("(32, 10)", "(32, 3)"), SIZES),
    "U empty": Case(with_tensor(U, lambda t: t[:0].clone()), rule("(32, 10)", "(0, 10)"), SIZES),
    "scale of another shape": Case(with_tensor(SCALE, lambda t: t.repeat(2)), rule("(1,)", "(2,)", SCALE), SIZES),
    "a tensor of integers": Case(
        with_tensor(U, lambda t: t.int()), f"ValueError: `{U}` must hold floating-point .* torch.int32", "loads$"
    ),
    "tensors of float16": Case(
        tensors(lambda saved: {key: tensor.half() for key, tensor in saved.items()}), "loads$", "loads$"
    ),
    "NaN in a tensor": Case(with_tensor(U, lambda t: t * torch.nan), "loads$", "loads$"),
    "another r": Case(config(r=5), rule("(32, 7)", "(32, 10)", Q), SIZES),
    "another preference_rank": Case(config(preference_rank=2), rule("(32, 12)", "(32, 10)", Q), SIZES),
    "another number of objectives": Case(config(objectives=["a", "b", "c"]), rule("(32, 11)", "(32, 10)", Q), SIZES),
    "objectives renamed": Case(config(objectives=["x", "y"]), "loads$", "loads$"),
    "an objective twice": Case(
        config(objectives=["a", "a"]), "ValueError: `objectives` must", "ValueError: `objectives` must"
    ),
    "default_preference off the simplex": Case(
        config(default_preference=[0.9, 0.9]),
        "ValueError: `default_preference` must have 2",
        "ValueError: `default_preference` must have 2",
    ),
    "other target_modules": Case(
        config(target_modules=["q_proj"]),
        "ValueError: .* 8 tensors .* 48 are no part of it",
        "reports 0 missing, 48 unexpected",
    ),
    "peft_type of LoRA": Case(
        config(peft_type="LORA"),
        "warns: Unexpected keyword arguments .* Found missing adapter keys",
        "warns: Unexpected keyword arguments .* reports 28 missing, 56 unexpected",
        added="ValueError: Cannot combine adapters with different peft types",
    ),
    "peft_type unknown": Case(config(peft_type="FOO"), "KeyError: 'FOO'", "KeyError: 'FOO'"),
    "no peft_type": Case(
        without_peft_type, "KeyError: 'peft_type'", "TypeError: .* missing required keys: {'peft_type'}"
    ),
    "configuration cut off": Case(
        lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text()[:40]),
        "JSONDecodeError: ",
        "JSONDecodeError: ",
    ),
    "fields of a newer version": Case(
        config(from_the_future=1),
        r"warns: Unexpected keyword arguments \['from_the_future'\]",
        r"warns: Unexpected keyword arguments \['from_the_future'\]",
    ),
    "configuration absent": Case(
        lambda folder: (folder / CONFIG).unlink(),
        f"ValueError: Can't find '{CONFIG}'",
        "ValueError: adapter model file not found",
    ),
}


@pytest.fixture
def folder(tmp_path):
    steered(llama(), task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def live(tokens):
    """A model in use, and what it computes."""
    model = steered(llama(), task_type="CAUSAL_LM")
    return model, model(**tokens).logits


def outcome(run: Callable[[], object]) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            info = run()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    parts = [str(w.message) for w in caught if w.category is not FutureWarning]
    parts[:0] = ["warns:"] * bool(parts)
    if not isinstance(info, PeftModel) and (info.missing_keys or info.unexpected_keys):
        parts.append(f"reports {len(info.missing_keys)} missing, {len(info.unexpected_keys)} unexpected")
    return " ".join(parts) or "loads"


def check(name: str, loader: str, pattern: str, found: str) -> None:
    print(f"{name} | {loader} | {found}")
    # The parentheses of shapes are meant literally.
    assert re.match(pattern.replace("(", r"\(").replace(")", r"\)"), found, re.DOTALL), found


@pytest.mark.parametrize("low_memory", [False, True], ids=["", "low_cpu_mem_usage"])
@pytest.mark.parametrize("name", CASES)
def test_from_pretrained(name, low_memory, folder, tokens):
    CASES[name].damage(folder)
    base = llama()
    expected = base(**tokens).logits
    found = outcome(lambda: PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=low_memory))
    check(name, "from_pretrained", CASES[name].peft, found)
    if "Error" in found and not low_memory:  # the base model may be left with an adapter that does nothing
        assert torch.equal(base(**tokens).logits, expected)


@pytest.mark.parametrize("low_memory", [False, True], ids=["", "low_cpu_mem_usage"])
@pytest.mark.parametrize("name", CASES)
def test_load_adapter(name, low_memory, folder, tokens, live):
    CASES[name].damage(folder)
    model, expected = live
    found = outcome(lambda: model.load_adapter(str(folder), "new", low_cpu_mem_usage=low_memory))
    check(name, "load_adapter", CASES[name].added or CASES[name].peft, found)
    assert torch.equal(model(**tokens).logits, expected)
    assert model.active_adapters == ["default"]
    if "Error" in found:
        if "new" in model.peft_config:  # PEFT added it before it read the weights
            model.delete_adapter("new")
        assert list(model.peft_config) == ["default"]
        assert torch.equal(model(**tokens).logits, expected)
        assert not any(".new." in key for key in model.state_dict())


@pytest.mark.parametrize("name", CASES)
def test_native_load_adapter(name, folder, tokens):
    CASES[name].damage(folder)
    model = llama()
    expected = model(**tokens).logits
    found = outcome(lambda: model.load_adapter(str(folder)))
    check(name, "native", CASES[name].native, found)
    if "Error" in found:
        if getattr(model, "peft_config", None):
            model.delete_adapter("default")
        assert torch.equal(model(**tokens).logits, expected)


@pytest.mark.parametrize("name", ["none", "objectives renamed", "fields of a newer version"])
def test_what_loads_is_the_adapter(name, folder, tokens, live):
    CASES[name].damage(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(llama_of(live[0]), folder)
    assert torch.equal(loaded(**tokens, preference=[0.5, 0.5]).logits, live[1])


def llama_of(model):
    base = llama()
    state = {key.replace(".base_layer", ""): value for key, value in model.get_base_model().state_dict().items()}
    base.load_state_dict({key: value for key, value in state.items() if "panacea_" not in key})
    return base


def test_nan_is_refused_by_a_safe_merge(folder):
    CASES["NaN in a tensor"].damage(folder)
    model = PeftModel.from_pretrained(llama(), folder)
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_and_unload(safe_merge=True)


@pytest.mark.parametrize("name", ["a tensor missing", "U of another shape", "a tensor of integers"])
def test_an_adapter_in_use_is_not_overwritten_by_half(name, folder, tokens, live):
    CASES[name].damage(folder)
    model, expected = live
    randomise(model, seed=1)
    expected = model(**tokens).logits
    with pytest.raises(ValueError, match="must"):
        model.load_adapter(folder, "default")
    assert torch.equal(model(**tokens).logits, expected)


def test_the_same_base_model_can_be_tried_again(folder, tokens, live):
    base = llama_of(live[0])
    good = (folder / WEIGHTS).read_bytes()
    CASES["a tensor missing"].damage(folder)
    with pytest.raises(ValueError, match="1 is missing"):
        PeftModel.from_pretrained(base, folder)
    (folder / WEIGHTS).write_bytes(good)
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        again = PeftModel.from_pretrained(base, folder)
    assert torch.equal(again(**tokens).logits, live[1])


def test_a_base_model_of_another_width(folder):
    with pytest.raises(ValueError, match=r"q_proj.panacea_svd.U` must have shape \(64, 10\) .* got \(32, 10\)"):
        PeftModel.from_pretrained(llama(hidden_size=64), folder)


def test_a_base_model_with_fewer_layers(folder):
    with pytest.raises(ValueError, match=r"its 28 tensors and no others, but 28 are no part of it, first .*layers\.1"):
        PeftModel.from_pretrained(llama(num_hidden_layers=1), folder)


def test_ignore_mismatched_sizes_is_for_what_is_saved_in_full(tmp_path):
    steered(llama(), modules_to_save=["lm_head"]).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"(?s)ignore_mismatched_sizes=True.*lm_head"):
        PeftModel.from_pretrained(llama(vocab_size=70), tmp_path, ignore_mismatched_sizes=True)
    CASES["U of another shape"].damage(tmp_path)
    with pytest.raises(ValueError, match=r"must have shape \(32, 10\)"):
        PeftModel.from_pretrained(llama(), tmp_path, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_an_injected_adapter_is_checked_too(prefix, tokens):
    source, target = (inject_adapter_in_model(PanaceaConfig(target_modules=["q_proj"]), llama()) for _ in range(2))
    saved = {prefix + key: tensor for key, tensor in get_peft_model_state_dict(randomise(source)).items()}
    set_peft_model_state_dict(target, saved)
    assert torch.equal(target.model.layers[0].self_attn.q_proj.panacea_svd["default"].U, saved[next(iter(saved))])
    saved.popitem()
    with pytest.raises(ValueError, match="its 8 tensors and no others, but 1 is missing"):
        set_peft_model_state_dict(target, saved)
    peft_panacea.set_preference(target, [1, 0])


def test_the_page_lists_the_table():
    rows = [line.split("|")[1].strip() for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    assert set(CASES) - {"none"} <= set(rows)

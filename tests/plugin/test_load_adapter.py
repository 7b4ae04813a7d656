"""Damaged adapter folders: an error that says what is wrong, or what docs/loading.md says instead."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import peft_panacea
from conftest import llama, randomise, steered
from peft_panacea import PanaceaConfig
from peft_panacea.tuner import PanaceaLayer

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
    names = {"U": "lora_B.weight", "Vh": "lora_A.weight"}
    split = {key.rpartition(".panacea_svd."): tensor for key, tensor in saved.items()}
    return {f"{layer}.{names[name]}": tensor for (layer, _, name), tensor in split.items() if name in names}


class Case(NamedTuple):
    """What each loader does with a damage, as a pattern of the outcome; None if as `peft`."""

    damage: Damage
    peft: str  # PeftModel.from_pretrained
    native: str | None = None  # transformers' load_adapter
    added: str | None = None  # PeftModel.load_adapter on a live model


def rule(shape: str, got: str, key: str = U) -> str:
    return f"ValueError: `{key}` must have shape {shape} .* but got {got}"


HEADER = "SafetensorError: Error while deserializing header"
Q = "base_model.model.model.layers.0.self_attn.q_proj.panacea_svd.U"

CASES = {
    "none": Case(lambda folder: None, "loads$"),
    "weights file cut off": Case(
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000]), HEADER
    ),
    "weights file empty": Case(lambda folder: (folder / WEIGHTS).write_bytes(b""), HEADER),
    "weights file of random bytes": Case(
        lambda folder: (folder / WEIGHTS).write_bytes(bytes(range(256)) * 16), HEADER
    ),
    "weights file a pickle": Case(lambda folder: torch.save({U: torch.ones(2)}, folder / WEIGHTS), HEADER),
    "weights file absent": Case(
        lambda folder: (folder / WEIGHTS).unlink(), "HFValidationError: Repo id", f"FileNotFoundError: .*{WEIGHTS}"
    ),
    "tensors of LoRA": Case(tensors(to_lora), "ValueError: .* 56 tensors .* 56 are missing"),
    "a tensor missing": Case(
        tensors(lambda saved: {key: saved[key] for key in saved if key != U}),
        f"ValueError: .* 56 tensors .* 1 is missing, `{U}`",
    ),
    "all tensors missing": Case(tensors(lambda saved: {}), "ValueError: .* 56 tensors .* 56 are missing"),
    "tensors of a layer that is not there": Case(
        with_tensor(U.replace("layers.0", "layers.7"), torch.clone),
        "ValueError: .* 56 tensors .* 1 is no part of it, `.*layers.7",
    ),
    "LoRA tensors besides": Case(
        with_tensor(f"{DOWN}.lora_A.weight", torch.clone),
        f"warns: .* no place for: 1 is ignored, `{DOWN}.lora_A.weight`",
        f"warns: .* no place for: 1 is ignored, `{DOWN}.lora_A.weight`. reports 0 missing, 1 unexpected",
    ),
    "U of another shape": Case(with_tensor(U, lambda t: t[:, :3].clone()), rule("(32, 10)", "(32, 3)")),
    "U empty": Case(with_tensor(U, lambda t: t[:0].clone()), rule("(32, 10)", "(0, 10)")),
    "scale of another shape": Case(with_tensor(SCALE, lambda t: t.repeat(2)), rule("(1,)", "(2,)", SCALE)),
    "a tensor of integers": Case(
        with_tensor(U, lambda t: t.int()), f"ValueError: `{U}` must hold floating-point .* torch.int32"
    ),
    "tensors of float16": Case(tensors(lambda saved: {key: tensor.half() for key, tensor in saved.items()}), "loads$"),
    "NaN in a tensor": Case(with_tensor(U, lambda t: t * torch.nan), "loads$"),
    "another r": Case(config(r=5), rule("(32, 7)", "(32, 10)", Q)),
    "another preference_rank": Case(config(preference_rank=2), rule("(32, 12)", "(32, 10)", Q)),
    "another number of objectives": Case(config(objectives=["a", "b", "c"]), rule("(32, 11)", "(32, 10)", Q)),
    "objectives renamed": Case(config(objectives=["x", "y"]), "loads$"),
    "an objective twice": Case(config(objectives=["a", "a"]), "ValueError: `objectives` must"),
    "default_preference off the simplex": Case(
        config(default_preference=[0.9, 0.9]),
        "ValueError: `default_preference` must have 2",
    ),
    "other target_modules": Case(
        config(target_modules=["q_proj"]),
        "ValueError: .* 8 tensors .* 48 are no part of it",
    ),
    "peft_type of LoRA": Case(
        config(peft_type="LORA"),
        "warns: Unexpected keyword arguments .* Found missing adapter keys",
        "warns: Unexpected keyword arguments .* reports 28 missing, 56 unexpected",
        added="ValueError: Cannot combine adapters with different peft types",
    ),
    "peft_type unknown": Case(config(peft_type="FOO"), "KeyError: 'FOO'"),
    "no peft_type": Case(
        without_peft_type, "KeyError: 'peft_type'", "TypeError: .* missing required keys: {'peft_type'}"
    ),
    "configuration cut off": Case(
        lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text()[:40]),
        "JSONDecodeError: ",
    ),
    "fields of a newer version": Case(
        config(from_the_future=1),
        r"warns: Unexpected keyword arguments \['from_the_future'\]",
    ),
    "a later format": Case(
        config(format_version=5, from_the_future=1),
        "ValueError: `format_version` must be at most 4, .* but got 5; a later one needs a newer peft-panacea",
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
def good(folder, tmp_path):
    """The folder before it was damaged."""
    return shutil.copytree(folder, tmp_path / "good")


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
def test_load_adapter(name, low_memory, folder, good, tokens, live):
    CASES[name].damage(folder)
    model, expected = live
    found = outcome(lambda: model.load_adapter(str(folder), "new", low_cpu_mem_usage=low_memory))
    check(name, "load_adapter", CASES[name].added or CASES[name].peft, found)
    assert torch.equal(model(**tokens).logits, expected)
    assert model.active_adapters == ["default"]
    if "Error" in found:
        assert list(model.peft_config) == ["default"]
        assert not any(".new." in key for key in model.state_dict())
        model.load_adapter(good, "new", low_cpu_mem_usage=low_memory)
        model.set_adapter("new")
        assert torch.equal(model(**tokens).logits, expected)


@pytest.mark.parametrize("name", CASES)
def test_native_load_adapter(name, folder, good, tokens, live):
    CASES[name].damage(folder)
    model = llama_of(live[0])
    expected, tensors_before = model(**tokens).logits, list(model.state_dict())
    found = outcome(lambda: model.load_adapter(str(folder)))
    check(name, "native", CASES[name].native or CASES[name].peft.replace("`base_model.model.", "`"), found)
    if "Error" in found:
        assert not hasattr(model, "peft_config")
        assert not model._hf_peft_config_loaded
        assert not any(module._forward_pre_hooks for module in model.modules())
        assert list(model.state_dict()) == tensors_before
        assert torch.equal(model(**tokens).logits, expected)
        model.load_adapter(good)
        assert torch.equal(model(**tokens).logits, live[1])


def state_of(model):
    return {
        "adapters": list(model.peft_config),
        "active": {name: m.active_adapters for name, m in model.named_modules() if isinstance(m, PanaceaLayer)},
        "tensors": list(model.state_dict()),
        "trainable": {name for name, parameter in model.named_parameters() if parameter.requires_grad},
        "training": model.training,
    }


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize(
    "name",
    ["weights file absent", "a tensor missing", "U of another shape", "an objective twice", "other target_modules"],
)
def test_native_load_adapter_leaves_others_as_they_were(name, folder, tokens):
    CASES[name].damage(folder)
    model = llama()
    model.add_adapter(PanaceaConfig(init_weights=False, target_modules=["v_proj", "down_proj"], panacea_dropout=0.1))
    expected = model.eval()(**tokens).logits
    model.train()
    before = state_of(model)
    with pytest.raises((ValueError, OSError), match=r"must|No such file"):
        model.load_adapter(folder, "new")
    assert state_of(model) == before
    assert torch.equal(model.eval()(**tokens).logits, expected)


def test_from_pretrained_of_an_adapter_folder_refuses(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    model = steered(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    CASES["a tensor missing"].damage(tmp_path / "adapter")
    with pytest.raises(ValueError, match="56 tensors and no others, but 1 is missing"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")


def test_native_load_adapter_finds_tensors_under_other_names(folder, tokens, live, tmp_path):
    saved = {key: tensor.clone() for key, tensor in get_peft_model_state_dict(live[0]).items()}

    passed = llama_of(live[0])
    passed.load_adapter(peft_config=PanaceaConfig.from_pretrained(folder), adapter_state_dict=saved)
    assert torch.equal(passed(**tokens).logits, live[1])

    (folder / WEIGHTS).unlink()
    torch.save(saved, folder / "adapter_model.bin")
    pickled = llama_of(live[0])
    pickled.load_adapter(folder, use_safetensors=False)
    assert torch.equal(pickled(**tokens).logits, live[1])

    without_head = {key.replace("model.model.model.", "model.model."): tensor for key, tensor in saved.items()}
    save_file(without_head, folder / WEIGHTS)
    prefixed = llama_of(live[0])
    prefixed.load_adapter(folder)
    assert torch.equal(prefixed(**tokens).logits, live[1])


def test_native_load_adapter_misses_what_is_saved_in_full(tmp_path, tokens):
    source = steered(llama(), modules_to_save=["lm_head"], target_modules=["q_proj"])
    source.save_pretrained(tmp_path)
    model = llama()
    model.add_adapter(PanaceaConfig(modules_to_save=["lm_head"], target_modules=["v_proj"]))
    with torch.no_grad():
        model.lm_head.modules_to_save["default"].weight.normal_()
    expected = model(**tokens).logits

    def refused(error, match):
        with pytest.warns(UserWarning, match="Already found"), pytest.raises(error, match=match):
            model.load_adapter(tmp_path, "new")
        assert list(model.peft_config) == list(model.lm_head.modules_to_save) == ["default"]
        assert torch.equal(model(**tokens).logits, expected)
        assert model.lm_head.modules_to_save["default"].weight.requires_grad

    head = "base_model.model.lm_head.weight"
    with_tensor(head, lambda t: t[:3].clone())(tmp_path)
    refused(RuntimeError, "You set `ignore_mismatched_sizes` to `False`")
    tensors(lambda saved: {key: tensor for key, tensor in saved.items() if key != head})(tmp_path)
    refused(ValueError, r"saves in full, but `lm_head.weight` is missing")


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("targets", [["q_proj", "embed_tokens"], ["nothing"]])
def test_a_failed_injection_is_taken_back(targets, folder, tokens, live):
    config(target_modules=targets)(folder)
    model, expected = live
    native, natively_alone = llama_of(model), llama_of(model)
    native.add_adapter(PanaceaConfig(target_modules=["v_proj"]))
    for target, adapters in ((model, ["default"]), (native, ["default"]), (natively_alone, [])):
        tensors_before = list(target.state_dict())
        with pytest.raises((TypeError, ValueError), match=r"must name|not found"):
            target.load_adapter(folder, "new")
        assert list(getattr(target, "peft_config", {})) == adapters
        assert list(target.state_dict()) == tensors_before
    assert not any(module._forward_pre_hooks for module in natively_alone.modules())
    assert torch.equal(model(**tokens).logits, expected)


def test_an_adapter_of_later_layers_stays_active(tmp_path, tokens):
    steered(llama(), modules_to_save=["lm_head"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    CASES["a tensor missing"].damage(tmp_path)
    model = steered(llama(), target_modules=["down_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.normal_()
    expected = model(**tokens).logits
    with pytest.raises(ValueError, match="1 is missing"):
        model.load_adapter(tmp_path, "new")
    assert model.active_adapters == ["default"]
    assert torch.equal(model(**tokens).logits, expected)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_other_methods_load_as_before(tmp_path):
    lora = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path)
    tensors(lambda saved: dict(list(saved.items())[1:]))(tmp_path)
    native = llama()
    assert len(native.load_adapter(tmp_path).missing_keys) == 1
    assert native.active_adapters() == ["default"]
    assert "_load_pretrained_model" not in vars(native)
    lora.load_adapter(tmp_path, "incomplete")
    (tmp_path / WEIGHTS).write_bytes(b"")
    for model in (native, lora):
        with pytest.raises(SafetensorError):
            model.load_adapter(tmp_path, "new")
        assert "new" in model.peft_config


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


@pytest.mark.parametrize(
    ("field", "here", "there"),
    [
        ("objectives", ["a", "b"], ["b", "a"]),
        ("objectives", ["a", "b"], ["x", "y"]),
        ("preference_rank", 1, 2),
        ("coordinates", "raw", "white"),
        ("scaling", 1.0, "paper"),
    ],
)
def test_an_adapter_in_use_means_what_the_checkpoint_means(field, here, there, folder, tokens, live):
    config(**{field: there})(folder)
    model, expected = live
    rule = f"The checkpoint must have the `{field}` of adapter 'default', {here!r}, but has {there!r}."
    with pytest.raises(ValueError, match=re.escape(rule)):
        model.load_adapter(folder, "default")
    assert torch.equal(model(**tokens).logits, expected)


def test_a_configuration_may_be_given_instead(folder, tokens, live):
    saved = PanaceaConfig.from_pretrained(folder)
    (folder / CONFIG).unlink()
    loaded = PeftModel.from_pretrained(llama_of(live[0]), folder, config=saved)
    assert torch.equal(loaded(**tokens).logits, live[1])


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
    config = PanaceaConfig(r=2, target_modules=["q_proj"])
    source, target = (inject_adapter_in_model(config, llama()) for _ in range(2))
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

"""Exported folders are LoRA adapters that give the same model, here and where this package is not installed."""

import json
import re
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from conftest import MLP, gpt2, llama, randomise, steered, t5
from peft_panacea import PanaceaConfig, set_preference
from peft_panacea.convert import export_lora, export_lora_basis, export_lora_grid

PREFERENCES = [[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]]
BASES = {"llama": llama, "gpt2": gpt2, "t5": t5}
CONFIGS = {
    "default": {"r": 0, "preference_rank": 8},
    "paper": {"r": 8, "preference_rank": 1, "scaling": "paper"},
    "white": {"r": 4, "preference_rank": 4, "coordinates": "white"},
    "ranks": {"r": 4, "preference_rank": 3, "rank_pattern": {r".*\.0\..*": 0, r".*\.1\..*": 9}},
    "some": {"target_modules": r".*\.0\..*(q_proj|c_attn|\.q)"},
}


def logits(model, tokens):
    more = {"decoder_input_ids": tokens["input_ids"]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(**tokens, **more).logits


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]


@pytest.fixture(params=CONFIGS)
def options(request):
    return CONFIGS[request.param]


def fresh(make_base):
    """Always with the same weights."""
    torch.manual_seed(0)
    return make_base()


def load(make_base, folder, **how):
    return PeftModel.from_pretrained(fresh(make_base), folder, **how).eval()


@pytest.mark.parametrize("preference", PREFERENCES, ids=str)
def test_the_same_model_at_a_preference(base, options, preference, tokens, tmp_path):
    model = steered(fresh(base), **options)
    export_lora(model, preference, tmp_path)
    set_preference(model, preference)
    expected = logits(model, tokens)
    torch.testing.assert_close(logits(load(base, tmp_path), tokens), expected, rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        without = logits(model, tokens)
    assert (expected - without).abs().max() > 0.01, "the adapter does nothing, and the test sees nothing"


def test_a_basis_mixed_by_peft(base, options, tokens, tmp_path):
    objectives = ["helpful", "harmless"]  # PEFT does not like an adapter whose name is in "lora_", as "a" is
    model = steered(fresh(base), objectives=objectives, **options)
    names = export_lora_basis(model, tmp_path)
    shared = ["shared"] if options.get("r", 8) or options.get("rank_pattern") else []
    assert names == [*shared, *objectives]
    for weights in (*PREFERENCES, [1.5, -0.5], [0.2, 0.1]):
        set_preference(model, weights, extrapolate=True)
        expected = logits(model, tokens)
        mixed = load(base, tmp_path / names[0], adapter_name=names[0])
        for name in names[1:]:
            mixed.load_adapter(tmp_path / name, adapter_name=name)
        mixed.add_weighted_adapter(names, [*[1.0] * len(shared), *weights], "mixture", combination_type="cat")
        mixed.set_adapter("mixture")
        torch.testing.assert_close(logits(mixed.eval(), tokens), expected, rtol=2e-4, atol=2e-4)


def test_a_grid(model, tokens, tmp_path):
    folders = export_lora_grid(model, torch.tensor([[0.25, 0.75], [1.0, 0.0]]), tmp_path / "grid")
    assert [folder.name for folder in folders] == ["0.25,0.75", "1,0"]
    for folder, preference in zip(folders, ([0.25, 0.75], [1.0, 0.0]), strict=True):
        export_lora(model, preference, tmp_path / "alone")
        one, other = (load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "alone"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_grid_takes_whatever_one_export_takes(tokens, tmp_path):
    """Preferences with names off the simplex, and what sums to 1 only nearly."""
    model = steered(fresh(llama), named_preferences={"strong": [1.0, 0.7]})
    strong, nearly = export_lora_grid(model, ["strong", [0.50005, 0.50005]], tmp_path)
    assert [strong.name, nearly.name] == ["1,0.7", "0.50005,0.50005"]
    set_preference(model, "strong")
    torch.testing.assert_close(logits(load(llama, strong), tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)
    assert (nearly / "README.md").exists()


def test_what_is_trained_besides_goes_along(tmp_path, tokens):
    def classifier():
        sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "attention_bias": True}
        return LlamaForSequenceClassification(LlamaConfig(**sizes, **heads, num_labels=3)).eval()

    for bias, of_lora in (("panacea_only", "lora_only"), ("all", "all"), ("none", "none")):
        besides = {"modules_to_save": ["score"], "trainable_token_indices": [5, 9], "bias": bias}
        model = steered(fresh(classifier), task_type="SEQ_CLS", **besides)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and ".panacea_svd." not in name:
                    parameter.add_(torch.randn_like(parameter))
        export_lora(model, [0.3, 0.7], tmp_path / bias)
        config = LoraConfig.from_pretrained(tmp_path / bias)
        assert config.bias == of_lora
        assert "score" in config.modules_to_save
        with torch.no_grad():
            expected = model(**tokens, preference=[0.3, 0.7]).logits
            found = load(classifier, tmp_path / bias)(**tokens).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "value"), [("modules_to_save", ["lm_head"]), ("trainable_token_indices", [3]), ("bias", "all")]
)
def test_what_no_sum_has_a_place_for_is_refused_by_name(option, value, tmp_path):
    model = steered(llama(), **{option: value})
    with pytest.raises(ValueError, match=f"`{option}`.*`export_lora` takes that along"):
        export_lora_basis(model, tmp_path / "basis")
    assert not (tmp_path / "basis").exists()


def test_it_loads_where_this_package_is_not_installed(tokens, tmp_path):
    fresh(llama).save_pretrained(tmp_path / "base")
    model = steered(fresh(llama))
    export_lora(model, [0.3, 0.7], tmp_path / "lora")
    with torch.no_grad():
        torch.save(model(**tokens, preference=[0.3, 0.7]).logits, tmp_path / "expected.pt")
    torch.save(tokens, tmp_path / "tokens.pt")
    script = """
import sys
sys.modules["peft_panacea"] = None  # importing it fails
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "lora").eval()
with torch.no_grad():
    found = model(**torch.load("tokens.pt")).logits
print((found - torch.load("expected.pt")).abs().max().item())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-4


def test_not_a_transformers_model(tmp_path):
    model = steered(fresh(MLP), target_modules=["hidden"])
    export_lora(model, [0.3, 0.7], tmp_path)
    found = load(MLP, tmp_path)
    x = torch.randn(5, 12)
    torch.testing.assert_close(found(x), model(x, preference=[0.3, 0.7]), rtol=1e-4, atol=1e-5)


def test_the_model_is_as_it_was(model, tokens, tmp_path):
    set_preference(model, [0.9, 0.1])
    before = logits(model, tokens)
    export_lora(model, [0.3, 0.7], tmp_path / "one")
    export_lora_basis(model, tmp_path / "basis")
    assert torch.equal(logits(model, tokens), before)


def test_one_of_several_adapters(tokens, tmp_path):
    model = steered(fresh(llama))
    model.add_adapter("second", PanaceaConfig(objectives=["x", "y", "z"], r=0, preference_rank=2))
    randomise(model, seed=1)
    export_lora(model, {"x": 0.2, "y": 0.3, "z": 0.5}, tmp_path, adapter_name="second")
    model.set_adapter("second")
    set_preference(model, [0.2, 0.3, 0.5], "second")
    torch.testing.assert_close(logits(load(llama, tmp_path), tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"`adapter_name` must be one of.*'third'"):
        export_lora(model, [0.5, 0.5], tmp_path, adapter_name="third")


def test_the_readme_of_a_basis_works_as_it_stands(tokens, tmp_path):
    model = steered(fresh(llama), objectives=["helpful, kind", "brief/short"])
    names = export_lora_basis(model, tmp_path)
    weights = {"shared": 1.0, "helpful-kind": "helpful, kind", "brief-short": "brief/short"}
    assert names == list(weights)
    assert json.loads((tmp_path / "basis.json").read_text()) == weights
    code = re.search(r"```py\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL).group(1)
    variables = {"base_model": fresh(llama)}
    exec(code.replace("FOLDER", str(tmp_path)), variables)
    set_preference(model, [0.5, 0.5])
    torch.testing.assert_close(logits(variables["model"], tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)


def test_the_readme_of_a_preference_works_as_it_stands(tokens, tmp_path):
    model = steered(fresh(llama))
    export_lora(model, [0.3, 0.7], tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "a 0.3, b 0.7" in text
    variables = {"base_model": fresh(llama)}
    exec(re.search(r"```py\n(.*?)```", text, re.DOTALL).group(1).replace("FOLDER", str(tmp_path)), variables)
    set_preference(model, [0.3, 0.7])
    torch.testing.assert_close(logits(variables["model"], tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)


def test_objectives_whose_folders_would_be_one(tmp_path):
    model = steered(llama(), objectives=["shared", "a b", "a/b", "…"])
    assert export_lora_basis(model, tmp_path) == ["shared", "shared-2", "a-b", "a-b-2", "objective"]


@pytest.mark.parametrize(
    ("preference", "message"),
    [
        ([0.3, 0.3], "`preference` must have 2 non-negative entries that sum to 1"),
        ([[0.3, 0.7], [0.5, 0.5]], "`preference` must be one preference, but got 2 rows"),
        ({"a": 0.3, "c": 0.7}, "`preference` must name exactly the objectives"),
    ],
)
def test_what_is_no_preference_is_refused_and_nothing_written(preference, message, model, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export_lora(model, preference, tmp_path / "out")
    with pytest.raises(ValueError, match=re.escape(message)):
        export_lora_grid(model, [[0.5, 0.5], preference], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_preference_off_the_simplex_if_asked_for(tokens, tmp_path):
    model = steered(fresh(llama))
    with pytest.raises(ValueError, match="non-negative entries"):
        export_lora(model, [1.5, -0.5], tmp_path)
    export_lora(model, [1.5, -0.5], tmp_path, extrapolate=True)
    set_preference(model, [1.5, -0.5], extrapolate=True)
    torch.testing.assert_close(logits(load(llama, tmp_path), tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)


def test_equal_preferences_of_a_grid_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="`preferences` must differ"):
        export_lora_grid(model, [[0.3, 0.7], [0.3, 0.7]], tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_other_adapter_is_overwritten(model, tmp_path):
    own = tmp_path / "1,0"
    model.save_pretrained(own)
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    for export in (
        lambda: export_lora(model, [0.5, 0.5], own),
        lambda: export_lora_grid(model, [[0.0, 1.0], [1.0, 0.0]], tmp_path),
        lambda: export_lora_basis(model, own),
    ):
        with pytest.raises(ValueError, match=r"`path` must not hold another adapter, but .* has one of PANACEA"):
            export()
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["1,0"]
    for preference in ([0.3, 0.7], [0.7, 0.3]):  # one's own export may be made again
        export_lora(model, preference, tmp_path / "lora")
    (tmp_path / "file").write_text("")
    for export in (lambda path: export_lora(model, [0.5, 0.5], path), lambda path: export_lora_basis(model, path)):
        with pytest.raises(ValueError, match="`path` must be a folder"):
            export(tmp_path / "file")


def test_what_has_no_adapter_of_ours_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`model` must be a PeftModel, but got LlamaForCausalLM"):
        export_lora(llama(), [0.5, 0.5], tmp_path)
    with pytest.raises(RuntimeError, match="`model` must have a Panacea adapter"):
        export_lora(get_peft_model(llama(), LoraConfig()), [0.5, 0.5], tmp_path)

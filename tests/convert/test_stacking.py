"""LoRA adapters that are stacked are the same adapters, alone and weighed, and train on."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn

from conftest import gpt2, llama, steered, t5
from peft_panacea import PanaceaConfig, set_preference
from peft_panacea.convert import export_lora, export_lora_basis, stack_basis, stack_loras
from peft_panacea.tuner import PanaceaSVD

BASES = {"llama": llama, "gpt2": gpt2, "t5": t5}
ATTENTION = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "t5": ["q", "v"]}
LORAS = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 6, "lora_alpha": 3, "use_rslora": True},
    "patterns": {
        "r": 2,
        "target_modules": "all-linear",
        "rank_pattern": {r".*\.0\..*": 5},
        "alpha_pattern": {r".*\.1\..*": 7},
        "init_lora_weights": "gaussian",
    },
    "one layer": {"r": 3, "layers_to_transform": [1]},
}


def fresh(name):
    torch.manual_seed(0)
    return BASES[name]()


def random_lora(model: nn.Module, **config: object) -> PeftModel:
    """As training would leave it; B is 0 in a new one."""
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    for name, parameter in lora.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return lora.eval()


@pytest.fixture(scope="module", params=BASES)
def stacked(request, tmp_path_factory):
    """Name of the base, folders of four LoRAs, and the stack of them."""
    folders = {}
    for i, (name, options) in enumerate(LORAS.items()):
        options = {"target_modules": ATTENTION[request.param], "fan_in_fan_out": request.param == "gpt2", **options}
        if "layers_to_transform" in options:
            options["layers_pattern"] = {"llama": "layers", "gpt2": "h", "t5": "block"}[request.param]
        torch.manual_seed(10 + i)
        folders[name] = tmp_path_factory.mktemp("lora")
        random_lora(fresh(request.param), **options).save_pretrained(folders[name])
    return request.param, folders, stack_loras(fresh(request.param), folders).eval()


@torch.no_grad()
def logits(model, tokens):
    more = {"decoder_input_ids": tokens["input_ids"]} if model.config.is_encoder_decoder else {}
    return model(**tokens, **more).logits


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("i", range(4))
def test_each_lora_alone(stacked, tokens, i):
    base, folders, model = stacked
    alone = PeftModel.from_pretrained(fresh(base), folders[list(LORAS)[i]]).eval()
    set_preference(model, torch.eye(4)[i])
    close(logits(model, tokens), logits(alone, tokens))


@pytest.mark.parametrize("p", [[0.25] * 4, [0.1, 0.2, 0.3, 0.4], [1.2, -0.4, 0.7, 0.0]], ids=str)
def test_their_soup_and_beyond(stacked, tokens, p):
    base, folders, model = stacked
    soup = PeftModel.from_pretrained(fresh(base), folders["plain"], adapter_name="plain")
    for name in list(LORAS)[1:]:
        soup.load_adapter(folders[name], name)
    negative = min(p) < 0
    # PEFT takes the square root of a weight; the sign goes into B.
    if negative:
        for name, parameter in soup.named_parameters():
            if ".lora_B.rslora." in name:
                parameter.data.neg_()
    soup.add_weighted_adapter(list(LORAS), [abs(weight) for weight in p], "soup", combination_type="cat")
    soup.set_adapter("soup")
    set_preference(model, p, extrapolate=True)
    close(logits(model, tokens), logits(soup.eval(), tokens))


def test_it_is_an_adapter_like_any_other(stacked, tokens, tmp_path):
    base, _, model = stacked
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(base), tmp_path).eval()
    p = [0.1, 0.2, 0.3, 0.4]
    set_preference(model, p)
    set_preference(loaded, p)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    config = model.peft_config["default"]
    assert (config.objectives, config.r, config.preference_rank) == (list(LORAS), 0, 6)


CONFIGS = {
    "default": {"r": 0, "preference_rank": 4},
    "shared": {"r": 3, "preference_rank": 2},
    "white": {"r": 2, "preference_rank": 3, "coordinates": "white"},
    "own scales": {"r": 0, "scale_per_objective": True},
    "ranks": {"r": 4, "rank_pattern": {r".*\.0\..*": 0, r".*\.1\..*": 9}},
    "some layers": {"target_modules": r".*\.0\..*(q_proj|c_attn|\.q)"},
}


@pytest.mark.parametrize(
    ("base", "name"), [*(("llama", name) for name in CONFIGS), ("gpt2", "shared"), ("t5", "white")]
)
def test_a_basis_and_back(base, name, tokens, tmp_path):
    options = CONFIGS[name]
    model = steered(fresh(base), **options)
    export_lora_basis(model, tmp_path)
    back = stack_basis(fresh(base), tmp_path).eval()
    assert back.peft_config["default"].objectives == model.peft_config["default"].objective_names
    for p in ([1.0, 0.0], [0.3, 0.7], [1.4, -0.2]):
        set_preference(model, p, extrapolate=True)
        set_preference(back, p, extrapolate=True)
        close(logits(back, tokens), logits(model, tokens))


def test_a_preference_of_an_adapter_is_a_lora_too(tokens, tmp_path):
    """A soup of two points of one front, in float16 as servers may store them."""
    model = steered(fresh("llama"))
    for name, p in (("left", [0.9, 0.1]), ("right", [0.2, 0.8])):
        export_lora(model, p, tmp_path / name)
    both = stack_loras(fresh("llama"), {name: tmp_path / name for name in ("left", "right")}).eval()
    set_preference(model, [0.55, 0.45])
    set_preference(both, [0.5, 0.5])
    close(logits(both, tokens), logits(model, tokens))


def test_every_parameter_is_trained_at_one_pace(stacked, tokens):
    """Scale, U and V of what was stacked have one magnitude, and all get a gradient at an inner preference."""
    base, folders, _ = stacked
    model = stack_loras(fresh(base), folders)
    set_preference(model, [0.25] * 4)
    ids = {"labels": tokens["input_ids"], **({"decoder_input_ids": tokens["input_ids"]} if base == "t5" else {})}
    if base == "t5":
        ids.pop("decoder_input_ids")
    model(**tokens, **ids).loss.backward()
    full = [svd for svd in model.modules() if isinstance(svd, PanaceaSVD) and svd.scale.all()]
    assert full
    for svd in full:
        rank = svd.U[:, 6:12].any(0).sum()  # of "rslora"
        magnitude = svd.scale[1].item()
        for tensor in (svd.U[:, 6 : 6 + rank], svd.Vh[6 : 6 + rank]):
            assert tensor.square().mean().sqrt().item() == pytest.approx(magnitude, rel=1e-3)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "decoder.block.0.layer.1" not in name:
            assert parameter.grad is not None
            assert parameter.grad.any(), name


REFUSED = {
    "DoRA": ({"use_dora": True}, "has `use_dora`"),
    "aLoRA": ({"alora_invocation_tokens": [5]}, "has `alora_invocation_tokens`"),
    "biases": ({"bias": "lora_only"}, "has `bias`"),
    "bias of B": ({"lora_bias": True}, "has `lora_bias`"),
    "modules": ({"modules_to_save": ["lm_head"]}, "has `modules_to_save`"),
    "tokens": ({"trainable_token_indices": [3]}, "has `trainable_token_indices`"),
    "replication": ({"layer_replication": [[0, 2], [1, 2]]}, "has `layer_replication`"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "was initialised by 'pissa', which changes the base model's weights"),
    "OLoRA": ({"init_lora_weights": "olora"}, "was initialised by 'olora'"),
    "MiCA": ({"init_lora_weights": "mica"}, "was initialised by 'mica'"),
    "embedding": (
        {"target_modules": ["embed_tokens"]},
        "adapt linear layers alone, .*embed_tokens is a Embedding",
    ),
}


def unchanged(model, before):
    return model.state_dict().keys() == before.keys() and all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )


@pytest.mark.filterwarnings("ignore")  # PEFT warns of some of them
@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_linear_is_refused_by_name(options, message, tmp_path):
    torch.manual_seed(0)
    good, bad = tmp_path / "good", tmp_path / "bad"
    random_lora(llama(), target_modules=["q_proj"]).save_pretrained(good)
    config = LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **options})
    get_peft_model(llama(attention_bias=True), config).save_pretrained(bad)
    base = llama(attention_bias=True)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    with pytest.raises(ValueError, match=r"`loras\['bad'\]` must .*" + message):
        stack_loras(base, {"good": good, "bad": bad})
    assert unchanged(base, before)
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_other_methods_and_other_models_are_refused(tmp_path):
    get_peft_model(llama(), IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "ia3")
    random_lora(llama(), target_modules=["q_proj"]).save_pretrained(tmp_path / "lora")
    base = llama()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    with pytest.raises(ValueError, match=r"`loras\['a'\]` must be a LoRA adapter, but .*ia3 is one of IA3"):
        stack_loras(base, {"a": tmp_path / "ia3"})
    with pytest.raises(ValueError, match=r"`shared` must be a LoRA adapter, but .*ia3 is one of IA3"):
        stack_loras(base, {"a": tmp_path / "lora"}, shared=tmp_path / "ia3")
    with pytest.raises(
        ValueError,
        match=r"`loras\['a'\]` must fit `base_model`, but of .*lora there is a size mismatch for .*lora_[AB]",
    ):
        stack_loras(llama(hidden_size=64), {"a": tmp_path / "lora"})
    with pytest.raises(ValueError, match=r"in .*lora 4 are missing or have no place, first .*layers\.2\."):
        stack_loras(llama(num_hidden_layers=4), {"a": tmp_path / "lora"})
    with pytest.raises(ValueError, match=r"Can't find 'adapter_config\.json'"):
        stack_loras(base, {"a": tmp_path})
    with pytest.raises(TypeError, match=r"`loras` must map objectives to folders or names on the Hub, but got \{\}"):
        stack_loras(base, {})
    with pytest.raises(TypeError, match="`loras` must map objectives"):
        stack_loras(base, [tmp_path / "lora"])
    assert unchanged(base, before)
    adapted = get_peft_model(base, PanaceaConfig(objectives=2))
    for model in (adapted, adapted.get_base_model()):
        with pytest.raises(
            ValueError, match="`base_model` must be without adapters, but has one; call `unload` first"
        ):
            stack_loras(model, {"a": tmp_path / "lora"})


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_a_lora_with_a_factor_of_zeros_adds_nothing(part, tokens, tmp_path):
    lora = random_lora(llama(), r=2, target_modules=["q_proj"])
    with torch.no_grad():
        next(p for name, p in lora.named_parameters() if f".{part}." in name).zero_()
    lora.save_pretrained(tmp_path / "zero")
    random_lora(llama(), r=2, target_modules=["q_proj"]).save_pretrained(tmp_path / "other")
    torch.manual_seed(0)
    model = stack_loras(llama(), {"zero": tmp_path / "zero", "other": tmp_path / "other"}).eval()
    torch.manual_seed(0)
    alone = PeftModel.from_pretrained(llama(), tmp_path / "zero").eval()
    set_preference(model, [1.0, 0.0])
    close(logits(model, tokens), logits(alone, tokens))


def test_a_bfloat16_base(tokens, tmp_path):
    random_lora(fresh("llama"), target_modules=["q_proj"]).save_pretrained(tmp_path)
    model = stack_loras(fresh("llama").to(torch.bfloat16), {"a": tmp_path}).eval()
    assert {p.dtype for n, p in model.named_parameters() if ".panacea_svd." in n} == {torch.float32}
    alone = PeftModel.from_pretrained(fresh("llama").to(torch.bfloat16), tmp_path).eval()
    difference = (logits(model, tokens) - logits(alone, tokens)).abs().max()
    assert difference <= 2**-7 * logits(alone, tokens).abs().max()


@pytest.mark.mechanics
def test_figures(stacked, tokens):
    """The numbers of docs/stacking.md."""
    base, folders, model = stacked
    differences, largest = [], 0.0
    for i, name in enumerate(LORAS):
        alone = logits(PeftModel.from_pretrained(fresh(base), folders[name]).eval(), tokens)
        set_preference(model, torch.eye(4)[i])
        differences.append((logits(model, tokens) - alone).abs().max().item())
        largest = max(largest, alone.abs().max().item())
    soup = PeftModel.from_pretrained(fresh(base), folders["plain"], adapter_name="plain")
    for name in list(LORAS)[1:]:
        soup.load_adapter(folders[name], name)
    soup.add_weighted_adapter(list(LORAS), [0.25] * 4, "soup", combination_type="cat")
    soup.set_adapter("soup")
    set_preference(model, [0.25] * 4)
    of_soup = (logits(model, tokens) - logits(soup.eval(), tokens)).abs().max().item()
    print(
        f"stacking, {base}: logits up to {largest:.1f}; largest difference to each LoRA alone {max(differences):.1e}, "
        f"to their soup in PEFT {of_soup:.1e}"
    )
    assert max(*differences, of_soup) < 1e-4 * largest

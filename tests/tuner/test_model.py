"""Which layers are adapted; saving, loading, copying."""

import copy
import pickle

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from conftest import MLP, gpt2, llama, randomise, steered
from peft_panacea import PanaceaConfig
from peft_panacea.tuner import PanaceaLayer, PanaceaModel


def adapted(model):
    return [name for name, module in model.named_modules() if isinstance(module, PanaceaLayer)]


def test_drops_into_get_peft_model(base):
    model = get_peft_model(base, PanaceaConfig(objectives=["helpful", "harmless"]))
    assert isinstance(model.base_model, PanaceaModel)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("panacea_" in name and ".default." in name for name in trainable)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_all_linear_but_the_output_layer_by_default(build):
    by_default = adapted(get_peft_model(build(), PanaceaConfig()))
    assert by_default == adapted(get_peft_model(build(), PanaceaConfig(target_modules="all-linear")))
    assert len(by_default) == 2 * (7 if build is llama else 4)
    assert not any("lm_head" in name for name in by_default)


@pytest.mark.parametrize(
    ("auto", "task_type", "head"),
    [
        (AutoModelForSequenceClassification, "SEQ_CLS", "classifier"),
        (AutoModelForTokenClassification, "TOKEN_CLS", "classifier"),
        (AutoModelForQuestionAnswering, "QUESTION_ANS", "qa_outputs"),
        (AutoModelForSequenceClassification, None, "classifier"),
    ],
)
def test_heads_are_not_adapted_by_default(auto, task_type, head):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = get_peft_model(auto.from_config(BertConfig(vocab_size=64, **sizes)), PanaceaConfig(task_type=task_type))
    names = adapted(model)
    assert any("query" in name for name in names)
    assert not any(head in name for name in names)
    assert all(
        p.requires_grad == (task_type is not None) for n, p in model.named_parameters() if f"{head}.modules" in n
    )
    model(torch.randint(0, 64, (2, 5)), preference=[[1, 0], [0, 1]])


def test_output_layers_that_are_called_otherwise_are_not_adapted_by_default():
    sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 4}
    model = AutoModelForSequenceClassification.from_config(DistilBertConfig(vocab_size=64, **sizes))
    names = adapted(get_peft_model(model, PanaceaConfig(task_type="SEQ_CLS")))
    assert len(names) == 6, "PEFT saves pre_classifier in full"
    speech = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    convolutions = {"conv_dim": (8,), "conv_kernel": (4,), "conv_stride": (4,), "num_conv_pos_embeddings": 4}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=16, num_conv_pos_embedding_groups=2, **speech, **convolutions))
    assert not any("lm_head" in name for name in adapted(get_peft_model(model, PanaceaConfig())))


def test_the_keyword_steers_without_the_peft_model_too(base, tokens):
    """Whose forward does not look at it for some models, such as MPT."""
    model = randomise(get_peft_model(base, PanaceaConfig()))
    for preference in ([1.0, 0.0], [[0.3, 0.7], [0.9, 0.1]] * 2):
        found = model.base_model(**tokens, preference=preference).logits
        assert torch.equal(found, model(**tokens, preference=preference).logits)
    assert torch.equal(model.base_model(**tokens).logits, model(**tokens).logits)
    with pytest.raises(ValueError, match="`preference` must"):
        model.base_model(**tokens, preference=[7, -3])


def test_targets_must_be_named_on_other_models():
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(MLP(), PanaceaConfig())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, 4),
        ({"target_modules": r".*\.0\..*_proj"}, 7),
        ({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, 12),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}, 1),
        ({"layers_to_transform": [1]}, 7),
        ({"layers_to_transform": 0, "exclude_modules": ["gate_proj"]}, 6),
    ],
    ids=str,
)
def test_targets_are_chosen_as_in_peft(base, config, count):
    assert len(adapted(get_peft_model(base, PanaceaConfig(**config)))) == count


def test_rank_pattern(base):
    config = PanaceaConfig(r=4, preference_rank=2, objectives=3, rank_pattern={"q_proj": 1, r"layers\.1\.mlp.*": 0})
    model = get_peft_model(base, config)
    ranks = {
        name: m.panacea_svd["default"].U.shape[1] - 6 for name, m in model.named_modules() if name in adapted(model)
    }
    assert {r for name, r in ranks.items() if name.endswith("q_proj")} == {1}
    assert {r for name, r in ranks.items() if "layers.1.mlp" in name} == {0}
    assert {r for name, r in ranks.items() if "layers.0.mlp" in name} == {4}


def test_other_layers_are_refused_by_name(base):
    with pytest.raises(TypeError, match=r"`target_modules` must name .* but 'model.norm' is a LlamaRMSNorm"):
        get_peft_model(base, PanaceaConfig(target_modules=["model.norm"]))


def test_modules_to_save_bias_and_tokens_train_and_come_back(tokens, tmp_path):
    def build():
        torch.manual_seed(3)
        return gpt2()

    config = PanaceaConfig(
        target_modules=["c_attn"], modules_to_save=["ln_f"], bias="panacea_only", trainable_token_indices={"wpe": [1]}
    )
    model = randomise(get_peft_model(build(), config)).eval()
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    for part in ("ln_f", "c_attn.base_layer.bias", "trainable_tokens_delta", "panacea_svd"):
        assert any(part in name for name in trainable), part
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.01)
    expected = model(**tokens).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(build(), tmp_path).eval()(**tokens).logits, expected)


def test_unloading_modules_without_a_weight(tokens):
    """`merge_and_unload` also unwraps what `modules_to_save` and `trainable_token_indices` wrapped."""
    config = PanaceaConfig(modules_to_save=["self_attn"], trainable_token_indices=[3], target_modules=["up_proj"])
    model = randomise(get_peft_model(llama(), config)).eval()
    expected = model(**tokens).logits
    torch.testing.assert_close(model.merge_and_unload()(**tokens).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize(
    "config",
    [{"r": 2}, {"preference_rank": 3}, {"objectives": ["z", "a", "m"]}, {"scale_per_objective": True}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_reproduces_the_output_exactly(tmp_path, tokens, config, low_cpu_mem_usage, dtype):
    torch.manual_seed(5)
    base = llama().to(dtype)
    model = steered(copy.deepcopy(base), **config)
    m = len(model.peft_config["default"].objective_names)
    preferences = torch.distributions.Dirichlet(torch.ones(m)).sample((4,))
    expected = model(**tokens, preference=preferences).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(loaded(**tokens, preference=preferences).logits, expected)
    assert loaded.peft_config["default"].objective_names == model.peft_config["default"].objective_names


def test_the_checkpoint_is_safetensors_and_holds_the_adapter_only(model, tmp_path):
    model.set_preference([1, 0])
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rsplit(".", 1)[1] for name in state} == {"U", "Vh", "sigma", "scale"}
    assert all(".panacea_svd." in name for name in state)


def test_auto_model_finds_the_base_model(tmp_path, tokens):
    llama().save_pretrained(tmp_path / "base")
    base = type(llama()).from_pretrained(tmp_path / "base")
    model = steered(base, task_type="CAUSAL_LM")
    expected = model(**tokens, preference=[0.3, 0.7]).logits
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(loaded(**tokens, preference=[0.3, 0.7]).logits, expected)


def test_loading_a_second_adapter(model, tmp_path, tokens):
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, adapter_name="again")
    expected = model(**tokens, preference=[1, 0]).logits
    model.set_adapter("again")
    assert torch.equal(model(**tokens, preference=[1, 0]).logits, expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_equal_and_independent(model, tokens, duplicate):
    model.set_preference([0.3, 0.7])
    expected = model(**tokens).logits
    twin = duplicate(model)
    assert torch.equal(twin(**tokens).logits, expected)
    twin.set_preference([1, 0])
    assert torch.equal(model(**tokens).logits, expected)
    assert not torch.equal(twin(**tokens).logits, expected)
    model.set_preference([1, 0])
    assert torch.equal(model(**tokens).logits, twin(**tokens).logits)


def test_converts_to_plain_lora(model, tokens):
    from peft import convert_to_lora, get_peft_model_state_dict, set_peft_model_state_dict

    model.set_preference([0.3, 0.7])
    expected = model(**tokens).logits
    config, state = convert_to_lora(model, rank=10)
    lora = get_peft_model(model.unload(), config)
    set_peft_model_state_dict(lora, state)
    assert get_peft_model_state_dict(lora).keys() == state.keys()
    torch.testing.assert_close(lora.eval()(**tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_one_state_for_all_layers(model):
    states = {id(m.preference_state) for m in model.modules() if isinstance(m, PanaceaLayer)}
    assert len(states) == 1
    model.add_adapter("other", PanaceaConfig(target_modules=["q_proj"]))
    assert {id(m.preference_state) for m in model.modules() if isinstance(m, PanaceaLayer)} == states


def test_the_preference_is_neither_parameter_nor_buffer(model):
    model.set_preference([0.123, 0.877])
    model.bfloat16()
    torch.testing.assert_close(model.get_preference(), torch.tensor([0.123, 0.877]), rtol=0, atol=1e-7)
    assert not any("preference" in name for name in model.state_dict())
    assert not list(model.named_buffers()) or not any("panacea" in name for name, _ in model.named_buffers())


def test_one_step_of_training_reaches_every_adapted_layer(base, tokens):
    """At first only sigma and scale have a gradient; after one step everything has."""
    model = get_peft_model(base, PanaceaConfig(r=2)).train()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        model(**tokens, labels=tokens["input_ids"], preference=torch.eye(2).repeat(2, 1)).loss.backward()
        with_gradient = {n.rsplit(".", 1)[1] for n, p in parameters.items() if p.grad.abs().max() > 0}
        assert with_gradient == ({"sigma", "scale"} if step == 0 else {"U", "Vh", "sigma", "scale"})
        optimizer.step()

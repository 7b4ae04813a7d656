"""Setting a preference: for good, for a block, for one call; for the batch or for every row."""

import functools

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model

import peft_panacea
from conftest import MLP, gpt2, llama, randomise, steered, t5
from peft_panacea import PanaceaConfig

ROWS = [[1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [0.5, 0.5]]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def single_runs(model, tokens, run):
    """`run` on every row alone, under its own preference."""
    return [
        run(**{name: value[i : i + 1] for name, value in tokens.items()}, preference=ROWS[i]) for i in range(len(ROWS))
    ]


@pytest.fixture(params=[None, "CAUSAL_LM"], ids=["PeftModel", "PeftModelForCausalLM"])
def either(request):
    """The two paths that PEFT takes, without and with a task type."""
    return steered(llama(), task_type=request.param)


def test_preference_changes_the_output(model, tokens):
    outputs = [model(**tokens, preference=p).logits for p in ([1, 0], [0, 1])]
    assert (outputs[0] - outputs[1]).abs().max() > 0.1


def test_one_call_leaves_no_trace(either, tokens):
    either.set_preference([0.3, 0.7])
    expected = either(**tokens).logits
    steered_once = either(**tokens, preference={"b": 0.0, "a": 1.0}).logits
    assert not torch.allclose(steered_once, expected)
    assert torch.equal(either(**tokens).logits, expected)
    either.set_preference([1, 0])
    assert torch.equal(either(**tokens).logits, steered_once)


def test_one_call_leaves_no_trace_in_training_either(either, tokens):
    either.train()
    either(**tokens, labels=tokens["input_ids"], preference=[1, 0]).loss.backward()
    assert either.get_preference().tolist() == [0.5, 0.5]


def test_block_restores_after_an_exception_and_nests(model):
    model.set_preference([0.3, 0.7])
    with model.preference([1, 0]):
        with pytest.raises(KeyError), model.preference(ROWS):
            raise KeyError
        assert model.get_preference().tolist() == [1.0, 0.0]
    torch.testing.assert_close(model.get_preference(), torch.tensor([0.3, 0.7]))


def test_failing_call_restores(either, tokens):
    either.set_preference([0.3, 0.7])
    expected = either(**tokens).logits
    with pytest.raises(ValueError, match="`preference` must have one row for every row of the batch, but got 3 rows"):
        either(**tokens, preference=ROWS[:3])
    with pytest.raises(ValueError, match="`preference` must have one row for every row of the batch, but got 3 rows"):
        either.generate(**tokens, preference=ROWS[:3], max_new_tokens=2)
    with pytest.raises(ValueError, match="sum to 1"):
        either(**tokens, preference=[0.5, 0.4])
    assert torch.equal(either(**tokens).logits, expected)


@pytest.mark.mechanics
def test_mixed_rows_equal_single_runs_in_forward(either, tokens):
    mixed = either(**tokens, preference=ROWS).logits
    differences = []
    for i, single in enumerate(single_runs(either, tokens, either)):
        real = tokens["attention_mask"][i].bool()
        differences.append((mixed[i, real] - single.logits[0, real]).abs().max().item())
    print(
        f"forward, largest difference of the logits: {max(differences):.1g}, of a largest of {mixed.abs().max():.2g}"
    )
    assert max(differences) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"use_cache": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
@pytest.mark.mechanics
def test_mixed_rows_equal_single_runs_in_generate(build, task_type, tokens, options):
    model = steered(build(), task_type=task_type)
    name = f"{build.__name__} generate {options}"
    output = {"return_dict_in_generate": True, "output_logits": True}
    options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, **output, **options}
    mixed = model.generate(**tokens, preference=ROWS, **options)
    singles = single_runs(model, tokens, functools.partial(model.generate, **options))
    assert torch.equal(mixed.sequences, torch.cat([single.sequences for single in singles]))
    beams = zip(*(single.logits for single in singles), strict=True)
    difference = max((m - torch.cat(s)).abs().max().item() for m, s in zip(mixed.logits, beams, strict=True))
    print(f"{name}, largest difference of the logits: {difference:.1g}")
    assert difference <= 1e-5
    assert model.get_preference().tolist() == [0.5, 0.5]


def test_rows_that_were_set_follow_beams_too(model, tokens):
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 2}
    expected = model.generate(**tokens, preference=ROWS, **options)
    model.set_preference(ROWS)
    assert torch.equal(model.generate(**tokens, **options), expected)
    assert model.get_preference().tolist() == torch.tensor(ROWS).tolist()


def test_num_return_sequences_keep_the_preference_of_their_prompt(model, tokens):
    """At a temperature near 0 every sample is the greedy answer under its prompt's preference."""
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6}
    expected = model.generate(**tokens, preference=ROWS, do_sample=False, **greedy)
    sampled = model.generate(
        **tokens, preference=ROWS, do_sample=True, temperature=1e-4, num_return_sequences=3, **greedy
    )
    assert torch.equal(sampled, expected.repeat_interleave(3, dim=0))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_encoder_and_decoder_rows(tokens, options):
    """The encoder sees B rows, the decoder B times the number of beams."""
    model = steered(t5(), task_type="SEQ_2_SEQ_LM")
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, **options}
    mixed = model.generate(**tokens, preference=ROWS, **options)
    singles = single_runs(model, tokens, functools.partial(model.generate, **options))
    assert torch.equal(mixed, torch.cat(singles))


def test_a_forward_within_generate_does_no_harm(model, tokens):
    """A logits processor may ask the adapted model itself."""
    expected = model.generate(**tokens, preference=ROWS, num_beams=2, do_sample=False, max_new_tokens=4)

    def ask_the_model(input_ids, scores):
        model(input_ids[:4], preference=list(reversed(ROWS)))
        return scores

    options = {"num_beams": 2, "do_sample": False, "max_new_tokens": 4, "logits_processor": [ask_the_model]}
    assert torch.equal(model.generate(**tokens, preference=ROWS, **options), expected)


def test_an_unloaded_model_expands_as_before(model):
    method = "_expand_inputs_for_generation"
    assert method in vars(model.get_base_model())
    assert method not in vars(model.unload())


def test_objectives_are_listed_in_order(model):
    assert peft_panacea.get_objectives(model) == ["a", "b"]
    model.add_adapter("three", PanaceaConfig(objectives=["z", "y", "x"]))
    assert peft_panacea.get_objectives(model, "three") == ["z", "y", "x"]
    with pytest.raises(ValueError, match="`adapter_name` must be one of the Panacea adapters"):
        peft_panacea.get_objectives(model, "four")


def test_several_adapters():
    model = get_peft_model(MLP(), PanaceaConfig(objectives=["a", "b"], target_modules=["hidden"]))
    model.add_adapter("three", PanaceaConfig(objectives=["x", "y", "z"], target_modules=["out"]))
    model.set_preference([0.2, 0.3, 0.5], adapter_name="three")
    assert model.get_preference("default").tolist() == [0.5, 0.5]
    torch.testing.assert_close(model.get_preference("three"), torch.tensor([0.2, 0.3, 0.5]))
    with pytest.raises(ValueError, match="must have 3 non-negative entries that sum to 1, for x, y, z"):
        model.set_preference([1, 0])
    assert model.get_preference("default").tolist() == [0.5, 0.5], "the refused call changed the first adapter"
    with pytest.raises(ValueError, match=r"`adapter_name` must be one of the Panacea adapters .* but got 'four'"):
        model.set_preference([1, 0], adapter_name="four")

    model.add_adapter("two", PanaceaConfig(objectives=["a", "b"], target_modules=["out"]))
    model.set_preference({"b": 1, "a": 0}, adapter_name=["default", "two"])
    assert model.get_preference("two").tolist() == model.get_preference().tolist() == [0.0, 1.0]
    model.set_adapter("two")
    model(torch.randn(1, 12), preference=[1, 0])  # a call steers the active adapter, whatever the others need


def test_all_adapters_by_default():
    model = steered(MLP(), target_modules=["hidden"])
    model.add_adapter("other", PanaceaConfig(objectives=["a", "b"], target_modules=["hidden"]))
    model.set_preference([1, 0])
    assert model.get_preference("default").tolist() == model.get_preference("other").tolist() == [1.0, 0.0]


def test_extrapolation_is_asked_for_by_name(model, tokens):
    corner = [model(**tokens, preference=p).logits for p in ([1, 0], [0, 1])]
    with pytest.raises(ValueError, match="sum to 1"):
        model.set_preference([2.0, 0.0])
    model.set_preference([2.0, 0.0], extrapolate=True)
    beyond = model(**tokens).logits
    assert all(not torch.allclose(beyond, c) for c in corner)
    with model.preference([[-1, 2]] * 4, extrapolate=True):
        model(**tokens)
    assert model.get_preference().tolist() == [2.0, 0.0]


def test_returned_preference_is_a_copy(model):
    model.get_preference().fill_(9)
    assert model.get_preference().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("add", ["inject_adapter_in_model", "add_adapter"])
def test_functions_steer_models_without_a_peft_model(add, tokens, model):
    native, config = llama(), PanaceaConfig(objectives=["a", "b"])
    native.load_state_dict(llama().state_dict())
    if add == "add_adapter":
        native.add_adapter(config)
    else:
        native = inject_adapter_in_model(config, native)
    randomise(native).eval()
    peft_panacea.set_preference(native, [1, 0])
    first = native(**tokens).logits
    with peft_panacea.preference(native, ROWS):
        mixed = native(**tokens).logits
        with pytest.raises(ValueError, match=r"but got 4 rows .* repeat the preference's too"):
            native.generate(**tokens, num_beams=2, max_new_tokens=2)
    torch.testing.assert_close(mixed[:1], first[:1], **CLOSE)
    assert not torch.allclose(mixed[1], first[1])
    assert peft_panacea.get_preference(native).tolist() == [1.0, 0.0]


def test_model_without_adapter_is_refused(base):
    for call in (
        lambda: peft_panacea.set_preference(base, [1, 0]),
        lambda: peft_panacea.get_preference(base),
        lambda: peft_panacea.preference(base, [1, 0]).__enter__(),
    ):
        with pytest.raises(RuntimeError, match="`model` must have a Panacea adapter, but none of its layers has one"):
            call()


def test_model_without_adapter_left_is_refused():
    model = steered(MLP(), target_modules=["hidden"])
    model.delete_adapter("default")
    with pytest.raises(RuntimeError, match="`model` must have a Panacea adapter"):
        model.set_preference([1, 0])


def test_mixed_adapter_batches_are_refused(either, tokens):
    with pytest.raises(ValueError, match=r"`adapter_names` must not be given.*own preference instead"):
        either(**tokens, adapter_names=["default"] * 4)


def test_packed_rows_are_refused(model, tokens):
    """Two sequences in one row of tokens cannot have a preference per row."""
    ids, positions = tokens["input_ids"][[0, 2]].reshape(1, -1), torch.arange(10).repeat(2)[None]
    with pytest.raises(ValueError, match=r"but got 2 rows .* use one preference, or one for every token"):
        model(input_ids=ids, position_ids=positions, preference=ROWS[:2])
    model(input_ids=ids, position_ids=positions, preference=ROWS[0])


def test_packed_rows_have_a_preference_for_every_token(model, tokens):
    ids, positions = tokens["input_ids"][[0, 2]], torch.arange(10).repeat(2)[None]
    packed = torch.tensor(ROWS)[[0, 2]].repeat_interleave(10, dim=0)[None]
    logits = model(input_ids=ids.reshape(1, -1), position_ids=positions, preference=packed, use_cache=False).logits
    alone = [model(input_ids=ids[[i]], preference=ROWS[row]).logits for i, row in enumerate((0, 2))]
    torch.testing.assert_close(logits, torch.cat(alone, dim=1), **CLOSE)


def test_tokens_are_those_of_rows_if_they_do_not_differ_within_them(either, tokens):
    spread = torch.tensor(ROWS)[:, None].expand(-1, 10, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            either(**tokens, preference=spread).logits, either(**tokens, preference=ROWS).logits, **CLOSE
        )
    either.train()
    losses = [either(**tokens, preference=p, labels=tokens["input_ids"]).loss for p in (spread, ROWS)]
    parameters = [p for p in either.parameters() if p.requires_grad]
    for one, other in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("shape", [(4, 9), (3, 10), (1, 10), (4, 1)])
def test_other_tokens_are_refused_even_where_they_would_broadcast(model, tokens, shape):
    preference = torch.tensor([0.5, 0.5]).expand(*shape, 2)
    with pytest.raises(ValueError, match=r"one entry for every token of the batch, but got one for each of \("):
        model(**tokens, preference=preference)


def test_generation_has_other_tokens_at_its_second_step(model, tokens):
    with pytest.raises(ValueError, match=r"one for each of \(4, 10\) for a layer input of shape \(4, 1, 32\)"):
        model.generate(**tokens, preference=torch.full((4, 10, 2), 0.5), max_new_tokens=2)


def test_tokens_have_no_single_weight(model):
    model.set_preference(torch.full((1, 3, 2), 0.5))
    with pytest.raises(ValueError, match="`preference` must be the same for the whole batch"):
        model.merge_adapter()


def test_setting_while_merged_warns_that_it_waits(model):
    model.merge_adapter()
    with pytest.warns(UserWarning, match=r"\['default'\] are merged .* takes effect once"):
        model.set_preference([1, 0])
    model.unmerge_adapter()
    model.set_preference([1, 0])


def test_two_preferences_in_one_backward(model, tokens):
    """A change replaces the tensor, so the first graph stays valid; gradients add up."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".panacea_svd." in name)

    def gradients(*preferences):
        model.zero_grad()
        losses = []
        for p in preferences:
            model.set_preference(p)
            losses.append(model(**tokens, labels=tokens["input_ids"]).loss)
        sum(losses).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    together, first, second = gradients([1, 0], [0, 1]), gradients([1, 0]), gradients([0, 1])
    for name, grad in together.items():
        torch.testing.assert_close(grad, first[name] + second[name], **CLOSE)


def test_a_preference_that_was_set_in_inference_mode_can_be_trained_under(model, tokens):
    with torch.inference_mode():
        model.set_preference([0.3, 0.7])
        model(**tokens)
    model.train()
    model(**tokens, labels=tokens["input_ids"]).loss.backward()


@pytest.mark.mechanics
def test_accumulated_gradients_are_those_of_the_whole_batch(model, tokens):
    """Micro-batches with the preferences of their rows; the rows have no padding, so that each weighs the same."""
    ids = tokens["input_ids"].clamp(min=3)
    model.train()

    def gradient(parts):
        model.zero_grad()
        for rows, preference in zip(ids.chunk(parts), torch.tensor(ROWS).chunk(parts), strict=True):
            (model(input_ids=rows, labels=rows, preference=preference).loss / parts).backward()
        return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".panacea_svd." in n])

    error = ((gradient(4) - gradient(1)).norm() / gradient(1).norm()).item()
    print(f"gradient error, accumulated over four micro-batches: {error:.1g}")
    assert error <= 1e-5


def test_loading_starts_at_the_default_preference(base, tmp_path):
    model = steered(base, default_preference=[0.9, 0.1])
    assert model.get_preference().tolist() == torch.tensor([0.9, 0.1]).tolist()
    model.set_preference([0, 1])
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), tmp_path)
    assert loaded.get_preference().tolist() == torch.tensor([0.9, 0.1]).tolist()

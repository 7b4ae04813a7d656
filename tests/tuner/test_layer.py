"""Merging, several adapters, precision: PEFT's bookkeeping of one layer."""

import copy

import pytest
import torch
from peft import get_peft_model

from conftest import MLP, gpt2, llama, randomise, steered
from peft_panacea import PanaceaConfig
from peft_panacea.tuner import PanaceaLinear


@pytest.fixture(params=[llama, gpt2], ids=["Linear", "Conv1D"])
def either(request):
    return steered(request.param(), task_type="CAUSAL_LM")


def base_weights(model):
    return {n: p.clone() for n, p in model.named_parameters() if ".panacea_svd." not in n}


@pytest.mark.parametrize("safe_merge", [False, True])
def test_merging_keeps_the_output_and_unmerging_the_weights(either, tokens, safe_merge):
    either.set_preference([0.3, 0.7])
    expected, weights = either(**tokens).logits, base_weights(either)
    either.merge_adapter(safe_merge=safe_merge)
    torch.testing.assert_close(either(**tokens).logits, expected, atol=1e-4, rtol=1e-4)
    either.unmerge_adapter()
    for name, weight in base_weights(either).items():
        torch.testing.assert_close(weight, weights[name], atol=1e-6, rtol=1e-5, msg=name)


def test_unmerging_takes_back_the_preference_that_was_merged(either):
    either.set_preference([1, 0])
    weights = base_weights(either)
    either.merge_adapter()
    with pytest.warns(UserWarning, match="takes effect once"):
        either.set_preference([0, 1])
    either.unmerge_adapter()
    for name, weight in base_weights(either).items():
        torch.testing.assert_close(weight, weights[name], atol=1e-6, rtol=1e-5, msg=name)
    assert either.get_preference().tolist() == [0.0, 1.0]


def test_merge_and_unload_gives_a_plain_model(either, tokens):
    either.set_preference([0.3, 0.7])
    expected = either(**tokens).logits
    merged = either.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(merged(**tokens).logits, expected, atol=1e-4, rtol=1e-4)
    assert not any("panacea" in name for name, _ in merged.named_modules())
    assert not any(module._forward_pre_hooks for module in merged.modules())


def test_rows_cannot_be_merged_and_nothing_changes(either, tokens):
    rows = [[1, 0], [0, 1], [1, 0], [0, 1]]
    either.set_preference(rows)
    expected, weights = either(**tokens).logits, base_weights(either)
    for call in (either.merge_adapter, either.merge_and_unload):
        with pytest.raises(ValueError, match=r"`preference` must be the same for the whole batch .* has 4 rows"):
            call()
    assert torch.equal(either(**tokens).logits, expected)
    assert all(torch.equal(weight, weights[name]) for name, weight in base_weights(either).items())


@pytest.mark.parametrize("named", [False, True])
def test_one_of_several_adapters_with_rows_and_nothing_changes(either, named):
    """Neither the layers of the others, nor those that only others have."""
    either.add_adapter("more", PanaceaConfig(objectives=["a", "b"], target_modules=r".*\.1\..*(q_proj|c_attn)"))
    either.base_model.set_adapter("default" if named else ["default", "more"])
    either.set_preference([[1, 0], [0, 1]], "more")
    names, weights = ["default", "more"] if named else None, base_weights(either)
    for call in (either.merge_adapter, either.merge_and_unload):
        with pytest.raises(ValueError, match="but adapter 'more' has 2 rows"):
            call(adapter_names=names)
    assert not any(getattr(module, "merged", False) for module in either.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in base_weights(either).items())
    layer = next(m for m in either.modules() if isinstance(m, PanaceaLinear) and "more" in m.panacea_svd)
    with pytest.raises(ValueError, match="but adapter 'more' has 2 rows"):
        layer.merge(adapter_names=names)
    assert not layer.merged
    either.merge_adapter(adapter_names=["default"])
    assert layer.merged_adapters == ["default"]


def test_safe_merge_refuses_a_broken_adapter(model):
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    weight = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.panacea_svd["default"].U[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter default"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight)
    assert not layer.merged


def test_unmerging_twice_warns(model):
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


def test_merging_into_bfloat16_rounds_only_once():
    """The update is added in float32: at most half a unit in the last place from the exact sum."""
    for safe_merge in (False, True):
        model = steered(MLP().bfloat16(), target_modules=["hidden"])
        layer = model.base_model.model.hidden
        exact = layer.base_layer.weight.double() + layer.get_delta_weight("default").double()
        with pytest.warns(UserWarning, match="Merging rounds"):
            model.merge_adapter(safe_merge=safe_merge)
        assert torch.equal(layer.base_layer.weight, exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_in_half_precision_says_so_once_and_what_to_do(dtype, tokens):
    """In float32 the merged model answers as the adapter does; in half precision it is off as that itself is."""

    def merged(model, call: str):
        found = getattr(model, call)()
        return model if found is None else found

    def logits(model):
        with torch.no_grad():
            return model(**tokens).logits.double()

    model = steered(llama().to(dtype))
    model.set_preference([0.3, 0.7])
    exact = logits(copy.deepcopy(model).double())
    for call in ("merge_adapter", "merge_and_unload"):
        message = rf"every adapted weight to {dtype} .* Call `model\.float\(\)` first"
        with pytest.warns(UserWarning, match=message) as caught:
            half = logits(merged(copy.deepcopy(model), call))
        assert len(caught) == 1
        whole = logits(merged(copy.deepcopy(model).float(), call))  # a warning would be an error
        of_half, of_whole, unmerged = ((found - exact).abs().max() for found in (half, whole, logits(model)))
        assert of_whole < 0.01 * of_half
        assert unmerged / 3 < of_half < 3 * unmerged
    copy.deepcopy(model).unload()


def test_disabled_adapter_is_the_base_model_bit_for_bit(base, tokens):
    expected = base(**tokens).logits
    model = steered(base)
    assert not torch.equal(model(**tokens).logits, expected)
    with model.disable_adapter():
        assert torch.equal(model(**tokens).logits, expected)
        assert torch.equal(model(**tokens, preference=[1, 0]).logits, expected)


@pytest.mark.parametrize("scaling", [1.0, "paper"])
@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_update_at_first_for_every_preference(build, scaling, dtype, tokens):
    base = build().to(dtype)
    expected = base(**tokens).logits
    model = get_peft_model(base, PanaceaConfig(objectives=3, preference_rank=2, scaling=scaling)).eval()
    corners = torch.distributions.Dirichlet(torch.ones(3)).sample((4,))
    assert torch.equal(model(**tokens, preference=corners).logits, expected)
    assert all(torch.equal(model(**tokens, preference=p).logits, expected) for p in corners)


def test_random_init_is_an_update(base, tokens):
    expected = base(**tokens).logits
    assert not torch.allclose(
        get_peft_model(base, PanaceaConfig(init_weights=False)).eval()(**tokens).logits, expected
    )


def test_the_constant():
    def factor(**config):
        model = get_peft_model(MLP(), PanaceaConfig(target_modules=["hidden"], **config))
        return model.base_model.model.hidden.panacea_svd["default"].factor

    assert factor() == pytest.approx(2500 / 12**0.5)
    assert factor(scaling=2.0) == pytest.approx(5000 / 12**0.5)
    assert factor(scaling="paper") == 64.0


def test_several_active_adapters_add_up(tokens):
    model = steered(llama())
    model.add_adapter("other", PanaceaConfig(objectives=["a", "b"], init_weights=False, target_modules=["q_proj"]))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 3, 32)
    model.base_model.set_adapter(["default", "other"])
    expected = layer.base_layer(x) + sum(x @ layer.get_delta_weight(name).T for name in ("default", "other"))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_deleting_an_adapter(base, tokens):
    expected = base(**tokens).logits
    model = steered(base)
    model.add_adapter("other", PanaceaConfig(objectives=["x", "y", "z"]))
    randomise(model, seed=1)
    with pytest.warns(UserWarning, match="Setting active adapter to other"):
        model.delete_adapter("default")
    model.set_preference([0.2, 0.3, 0.5])
    assert model.active_adapters == ["other"]
    model.delete_adapter("other")
    assert torch.equal(base(**tokens).logits, expected)


def test_diagonal_stays_float32_on_a_half_precision_base():
    model = get_peft_model(llama().bfloat16(), PanaceaConfig(r=2), autocast_adapter_dtype=False)
    dtypes = {n.rsplit(".", 1)[1]: p.dtype for n, p in model.named_parameters() if ".panacea_svd." in n}
    assert dtypes == {
        "U": torch.bfloat16, "Vh": torch.bfloat16, "sigma": torch.float32, "scale": torch.float32
    }  # fmt: skip


def test_autocast_trains(model, tokens):
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tokens, labels=tokens["input_ids"], preference=[[1, 0], [0, 1], [1, 0], [0, 1]]).loss
    loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if ".panacea_svd." in n]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)

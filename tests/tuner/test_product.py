"""The fused sum and its gradients against the same in single operations, which are held to the dense twin."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from conftest import MLP, steered
from peft_panacea.tuner import PanaceaLayer, svd
from peft_panacea.tuner.product import add_plainly, add_update


def inputs(gain_shape=(4,), dtype=torch.float64):
    """result, x, U, Vh, gain for three rows of two positions."""
    shapes = (3, 2, 5), (3, 2, 6), (5, 4), (4, 6), gain_shape
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("gain_shape", [(4,), (3, 1, 4)], ids=["one", "rows"])
def test_values_and_gradients_of_every_order(gain_shape, in_place):
    given = inputs(gain_shape)

    def fused(result, *rest):
        return add_update(result.clone(), *rest, in_place=in_place)  # a leaf may not be written into

    torch.testing.assert_close(fused(*given), add_plainly(*given))
    assert torch.autograd.gradcheck(fused, given)
    assert torch.autograd.gradgradcheck(fused, given)


@pytest.mark.parametrize("wanted", range(5), ids=["result", "x", "U", "Vh", "gain"])
def test_gradients_of_some_inputs_alone(wanted):
    given = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(inputs())]
    fused = torch.autograd.grad(add_update(given[0] * 1, *given[1:], in_place=True).square().sum(), given[wanted])
    torch.testing.assert_close(fused, torch.autograd.grad(add_plainly(*given).square().sum(), given[wanted]))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_recorded_or_not_it_rounds_alike(base_dtype, autocast):
    """Bit for bit: RL takes the ratio of likelihoods from a forward without gradients and one with them."""
    model = steered(MLP().to(base_dtype), target_modules=["hidden", "out"]).train()
    x = torch.randn(64, 12, dtype=base_dtype)
    found = []
    for recorded in (False, True):
        with torch.set_grad_enabled(recorded), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(model(x).detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_result_is_written_into_only_where_that_is_allowed(dtype, recorded):
    result, x, U, Vh, gain = (t.detach().to(dtype) for t in inputs())
    U.requires_grad_(recorded)
    before = result.clone()
    with torch.set_grad_enabled(recorded):
        kept = add_update(result, x, U, Vh, gain.float(), in_place=False)
        assert torch.equal(result, before)
        assert kept.data_ptr() != result.data_ptr()
        written = add_update(result, x, U, Vh, gain.float(), in_place=True)
    assert written.data_ptr() == result.data_ptr()
    torch.testing.assert_close(written, kept, atol=0.02 if dtype == torch.bfloat16 else 1e-6, rtol=0)


@pytest.mark.parametrize("recorded", [False, True])
def test_other_dtypes_and_layouts_are_added_as_they_promote(recorded):
    result, x, U, Vh, gain = (t.detach().float() for t in inputs())
    with torch.set_grad_enabled(recorded):
        expected = add_plainly(result, x, U, Vh, gain)
        half = add_update(result.bfloat16(), x, U, Vh, gain, in_place=True)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, add_plainly(result.bfloat16(), x, U, Vh, gain))
        apart = result.transpose(0, 1).contiguous().transpose(0, 1)
        torch.testing.assert_close(add_update(apart, x, U, Vh, gain, in_place=True), expected)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_is_that_of_single_operations(base_dtype, recorded):
    model = steered(MLP().to(base_dtype), target_modules=["hidden", "out"]).train(recorded)
    x = torch.randn(3, 12).to(base_dtype)

    def run():
        with torch.set_grad_enabled(recorded), torch.autocast("cpu", torch.bfloat16):
            return model(x)

    fused = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svd, "add_update", lambda *args: add_plainly(*args[:-1]))
        single = run()
    assert fused.dtype == single.dtype
    torch.testing.assert_close(fused, single, atol=0.02 * single.abs().max().item(), rtol=0)
    if recorded:
        fused.float().square().sum().backward()
        assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if ".panacea_svd." in n)


@pytest.mark.parametrize("everywhere", [False, True], ids=["of the layer", "of all modules"])
@pytest.mark.parametrize("recorded", [False, True])
def test_what_a_hook_keeps_of_the_base_layer_does_not_change(recorded, everywhere):
    model = steered(MLP(), target_modules=["hidden", "out"])
    base_layer = next(m for m in model.modules() if isinstance(m, PanaceaLayer)).base_layer
    x, kept = torch.randn(3, 12), []

    def keep(module, args, output):
        if module is base_layer:
            kept.append(output)

    register = nn.modules.module.register_module_forward_hook if everywhere else base_layer.register_forward_hook
    handle = register(keep)
    try:
        with torch.set_grad_enabled(recorded):
            model(x)
    finally:
        handle.remove()
    assert torch.equal(kept[0], base_layer(x))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_may_write_into_the_sum(in_place, bias):
    """As DeBERTa adds its biases; a linear layer with a bias returns a view."""
    base, given = nn.Linear(6, 5, bias=bias, dtype=torch.float64), inputs()[1:]
    gradients = []
    for add in (add_update, lambda *args: add_plainly(*args[:-1])):
        summed = add(base(given[0]), *given, in_place).permute(1, 0, 2)
        summed *= 2
        gradients.append(torch.autograd.grad(summed.square().sum(), given))
    torch.testing.assert_close(*gradients)


def test_backward_hooks_of_the_base_layer_run():
    model = steered(MLP(), target_modules=["hidden", "out"]).train()
    base_layer = next(m for m in model.modules() if isinstance(m, PanaceaLayer)).base_layer
    seen = []
    base_layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    model(torch.randn(3, 12, requires_grad=True)).sum().backward()
    assert seen[0].shape == (3, 20)


def test_gradients_of_single_rows_by_functional_transforms():
    model = steered(MLP(), target_modules=["hidden", "out"])
    model.set_preference([0.3, 0.7])
    parameters = {n: p.detach() for n, p in model.named_parameters() if ".panacea_svd." in n}
    x = torch.randn(3, 12)

    def loss(parameters, row):
        return functional_call(model, parameters, (row[None],)).square().sum()

    rows = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name in rows:
            torch.testing.assert_close(rows[name].sum(0), parameter.grad)
    with torch.no_grad():
        outputs = vmap(lambda row: functional_call(model, parameters, (row[None],))[0])(x)
        torch.testing.assert_close(outputs, model(x))
        twice = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
        outputs = vmap(lambda parameters: functional_call(model, parameters, (x,)))(twice)
        torch.testing.assert_close(outputs[0], model(x))

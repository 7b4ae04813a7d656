"""The layer's mathematics against its dense twin."""

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_panacea import PanaceaConfig
from peft_panacea.simplex import uniform
from peft_panacea.tuner import PanaceaSVD
from peft_panacea.tuner.state import Held
from peft_panacea.tuner.svd import gain, whitening
from reference import dense_forward, dense_weight

# Relative to the largest output: the rounding of one product, and of the sum with the base layer's output.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def update(svd: PanaceaSVD, x: torch.Tensor, preference: torch.Tensor) -> torch.Tensor:
    return svd(torch.zeros(*x.shape[:-1], len(svd.U)), x, Held(preference), in_place=True)


def adapted(
    layer_type: type,
    dtype: torch.dtype,
    r: int,
    R: int,
    m: int,
    keep_dtype: bool = False,
    coordinates: str = "raw",
    scale_per_objective: bool = False,
) -> nn.Module:
    base = nn.Linear(12, 20) if layer_type is nn.Linear else Conv1D(20, 12)
    nn.init.normal_(base.bias)
    model = nn.Sequential(base).to(dtype)
    config = PanaceaConfig(
        objectives=m,
        r=r,
        preference_rank=R,
        coordinates=coordinates,
        scale_per_objective=scale_per_objective,
        target_modules=["0"],
        init_weights=False,
    )
    return get_peft_model(model, config, autocast_adapter_dtype=not keep_dtype)


@pytest.mark.parametrize("keep_dtype", [False, True], ids=["float32 adapter", "same dtype"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layer_type", [nn.Linear, Conv1D])
@pytest.mark.parametrize(
    ("r", "R", "coordinates", "scales"),
    [(8, 1, "raw", False), (0, 2, "raw", False), (3, 3, "white", False), (0, 2, "raw", True), (1, 1, "white", True)],
)
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("batch", [(5,), (5, 3), (5, 2, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("per_row", [False, True], ids=["one", "rows"])
def test_agrees_with_the_dense_twin(dtype, layer_type, r, R, coordinates, scales, m, batch, per_row, keep_dtype):
    model = adapted(layer_type, dtype, r, R, m, keep_dtype, coordinates, scales)
    layer = model.base_model.model[0]
    svd = layer.panacea_svd["default"]
    x = torch.randn(*batch, 12).to(dtype)
    preference = torch.distributions.Dirichlet(torch.ones(m)).sample((batch[0],) if per_row else ())
    model.set_preference(preference)
    W0 = layer.base_layer.weight.T if layer_type is Conv1D else layer.base_layer.weight
    expected = dense_forward(
        x,
        layer.base_layer.bias,
        preference if coordinates == "raw" else (preference - 1 / m) * m * ((m + 1) / (m - 1)) ** 0.5,
        W0=W0,
        U=svd.U,
        Vh=svd.Vh,
        sigma=svd.sigma,
        scale=svd.scale,
        c=svd.factor,
        R=R,
    )
    actual = model(x)
    assert actual.dtype == dtype
    assert (actual - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("layer_type", [nn.Linear, Conv1D])
def test_delta_weight_is_the_dense_update_in_the_base_layout(layer_type):
    model = adapted(layer_type, torch.float32, 3, 2, 3)
    layer = model.base_model.model[0]
    svd = layer.panacea_svd["default"]
    p = torch.tensor([0.2, 0.5, 0.3])
    model.set_preference(p)
    delta = layer.get_delta_weight("default")
    expected = dense_weight(torch.zeros(20, 12), svd.U, svd.Vh, svd.sigma, svd.scale, p, svd.factor, 2)
    assert delta.shape == layer.base_layer.weight.shape
    torch.testing.assert_close((delta.T if layer_type is Conv1D else delta).double(), expected, atol=1e-6, rtol=1e-5)


def test_gain_repeats_each_objective_in_one_block():
    g = gain(torch.tensor([7.0]), torch.tensor([2.0]), torch.tensor([0.25, 0.75]), preference_rank=2)
    assert g.tolist() == [7.0, 0.5, 0.5, 1.5, 1.5]


@pytest.mark.parametrize("m", [2, 3, 10])
def test_white_coordinates_are_centred_and_of_unit_variance(m):
    centre, inverse_std = whitening(m)
    z = (uniform(200_000, m, torch.Generator().manual_seed(0)) - centre) * inverse_std
    assert z.mean(0).abs().max() < 0.01
    assert (z.std(0) - 1).abs().max() < 0.01


def test_one_objective_alone_has_nothing_to_be_told_from():
    svd = PanaceaSVD(4, 4, r=1, preference_rank=1, num_objectives=1, factor=1.0, dropout=0.0, white=True)
    assert svd.coordinates(torch.tensor([1.0])).tolist() == [1.0]


def test_white_coordinates_leave_the_centre_to_the_shared_directions():
    model = adapted(nn.Linear, torch.float32, 2, 3, 4, coordinates="white")
    svd = model.base_model.model[0].panacea_svd["default"]
    assert svd.gain(torch.full((4,), 0.25))[2:].abs().max() == 0


@pytest.mark.parametrize("coordinates", ["raw", "white"])
def test_update_is_linear_in_the_preference(coordinates):
    model = adapted(nn.Linear, torch.float32, 4, 2, 3, coordinates=coordinates)
    layer = model.base_model.model[0]

    def delta(p):
        model.set_preference(p)
        return layer.get_delta_weight("default")

    corners = [delta(p) for p in torch.eye(3)]
    p = torch.tensor([0.2, 0.3, 0.5])
    torch.testing.assert_close(delta(p), sum(w * d for w, d in zip(p, corners, strict=True)), atol=1e-6, rtol=1e-5)


def test_gradients_agree_with_the_dense_twin():
    model = adapted(nn.Linear, torch.float64, 3, 2, 2)
    layer = model.base_model.model[0]
    svd = layer.panacea_svd["default"].double()
    x, preference = torch.randn(5, 4, 12).double(), torch.tensor([[0.1, 0.9]] * 2 + [[1.0, 0.0]] * 3)
    model.set_preference(preference)
    model(x).pow(2).sum().backward()
    fast = {name: p.grad.clone() for name, p in svd.named_parameters()}
    svd.zero_grad()

    total = 0.0
    for row, p in zip(x, preference.double(), strict=True):
        S = torch.diag(torch.cat([svd.sigma, (svd.scale * p).repeat_interleave(2)]))
        W = layer.base_layer.weight + svd.factor * svd.U @ S @ svd.Vh
        total = total + (row @ W.T + layer.base_layer.bias).pow(2).sum()
    total.backward()
    for name, p in svd.named_parameters():
        torch.testing.assert_close(fast[name], p.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_diagonal_stays_float32_and_keeps_its_digits(dtype):
    svd = PanaceaSVD(4, 4, r=2, preference_rank=1, num_objectives=2, factor=1.0, dropout=0.0)
    nn.init.constant_(svd.sigma, 1.001)
    nn.init.constant_(svd.scale, 1.001)
    svd.to(dtype)
    assert (svd.U.dtype, svd.Vh.dtype) == (dtype, dtype)
    assert (svd.sigma.dtype, svd.scale.dtype) == (torch.float32, torch.float32)
    assert svd.sigma[0].item() == svd.scale.item() == torch.tensor(1.001).item()


def test_diagonal_is_float32_again_when_training_begins(monkeypatch):
    svd = PanaceaSVD(4, 4, r=2, preference_rank=1, num_objectives=2, factor=1.0, dropout=0.0)
    svd.reset_parameters(1.0, 1.0)
    for parameter in svd.parameters():  # what TRL does
        parameter.data = parameter.data.bfloat16()
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        with pytest.raises(RuntimeError, match="`sigma` and `scale` must be float32 to learn, but were cast to"):
            svd.train()
    svd.train()
    assert (svd.sigma.dtype, svd.scale.dtype, svd.U.dtype) == (torch.float32, torch.float32, torch.bfloat16)


def test_dropout_acts_in_training_only():
    svd = PanaceaSVD(50, 4, r=2, preference_rank=1, num_objectives=2, factor=1.0, dropout=0.5)
    svd.reset_parameters(1.0, 1.0, 1.0)
    x, p = torch.randn(3, 50), torch.tensor([0.5, 0.5])
    assert not torch.equal(update(svd, x, p), update(svd, x, p))
    svd.eval()
    assert torch.equal(update(svd, x, p), update(svd, x, p))


def test_wrong_row_count_is_refused_even_where_it_would_broadcast():
    svd = PanaceaSVD(4, 4, r=2, preference_rank=1, num_objectives=2, factor=1.0, dropout=0.0)
    for rows, shape in ((1, (3, 4)), (3, (1, 4)), (3, (6, 2, 4)), (4, (4,))):
        with pytest.raises(ValueError, match=f"`preference` must have one row .* but got {rows} rows"):
            update(svd, torch.randn(shape), torch.full((rows, 2), 0.5))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("r", [1, 6, 7, 8])
def test_a_row_has_the_same_update_at_every_place_of_the_batch(r, recorded):
    """Bit for bit: else old and new log-probabilities of RL differ where nothing was learned."""
    svd = PanaceaSVD(80, 64, r=r, preference_rank=1, num_objectives=2, factor=1.0, dropout=0.0).train(recorded)
    svd.reset_parameters(std_u=1.0, std_v=1.0, std_gain=1.0)
    x, order = torch.randn(37, 5, 80), torch.randperm(37)
    linear, base = nn.Linear(80, r + 2), nn.Linear(80, 64)
    first = torch.rand(37)
    preference = torch.stack([first, 1 - first], dim=1)
    with torch.set_grad_enabled(recorded):
        if not (torch.equal(linear(x)[order], linear(x[order])) and torch.equal(base(x)[order], base(x[order]))):
            pytest.skip("a linear layer itself rounds by place on this machine")
        placed = svd(base(x), x, Held(preference), in_place=True)[order]
        assert torch.equal(placed, svd(base(x[order]), x[order], Held(preference[order]), in_place=True))

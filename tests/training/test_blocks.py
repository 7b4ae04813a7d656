"""The directions of each objective, and what they say of how objectives interfere, against dense matrices."""

import pytest
import torch

from conftest import llama, steered
from peft_panacea.training import interference
from peft_panacea.training.blocks import all_blocks
from peft_panacea.tuner import PanaceaSVD

WAYS = {
    "raw": {"r": 0, "preference_rank": 3},
    "shared": {"r": 5, "preference_rank": 3},
    "white": {"r": 2, "preference_rank": 2, "coordinates": "white"},
}


def model_of(way: str, **sizes: int):
    return steered(llama(**sizes), objectives=["a", "b", "c"], task_type="CAUSAL_LM", **WAYS[way])


def layers(model):
    return [module for module in model.modules() if isinstance(module, PanaceaSVD)]


def own_update(svd: PanaceaSVD, i: int):
    """What objective i adds when its weight rises by one, dense."""
    step = torch.eye(3)[i]
    return (svd.delta_weight(step) - svd.delta_weight(0 * step)).detach().double()


@pytest.mark.parametrize("way", WAYS)
def test_blocks_are_what_a_weight_adds(way):
    model, found = model_of(way), []
    for blocks in all_blocks(model):
        U, V = blocks[:]
        found += [list(layer) for layer in (blocks.gain[..., None, None] * (U @ V)).unbind(dim=1)]
    expected = [[own_update(svd, i).float() for i in range(3)] for svd in layers(model)]
    assert len(found) == len(expected)
    for own in expected:
        assert any(
            a[0].shape == own[0].shape and torch.allclose(torch.stack(a), torch.stack(own), atol=1e-5) for a in found
        )


@pytest.mark.parametrize("way", WAYS)
def test_cosines_are_those_of_all_layers_as_one_vector(way):
    model = model_of(way)
    flat = torch.stack([torch.cat([own_update(svd, i).flatten() for svd in layers(model)]) for i in range(3)])
    expected = torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=-1)
    torch.testing.assert_close(interference(model)["cosine"], expected, atol=1e-6, rtol=0)


def test_opposite_updates_have_the_cosine_minus_one_and_full_dependence():
    model = model_of("raw")
    with torch.no_grad():
        for svd in layers(model):
            svd.U[:, 3:6] = svd.U[:, :3]
            svd.Vh[3:6] = -2 * svd.Vh[:3]
    found = interference(model)
    assert found["cosine"][0, 1].item() == pytest.approx(-1)
    assert found["dependence"][0, 1].item() == pytest.approx(1)
    assert found["cosine"][0, 2].abs() < 0.1
    assert found["dependence"][0, 2].abs() < 0.1
    for table in found.values():
        torch.testing.assert_close(table, table.T)
        torch.testing.assert_close(table.diagonal(), torch.ones(3).double())


def test_it_is_the_same_every_time_and_draws_from_nobody():
    model, state = model_of("raw", intermediate_size=200), torch.get_rng_state()
    first, again = interference(model), interference(model)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_update_of_zero_has_no_angle():
    model = model_of("raw")
    with torch.no_grad():
        for svd in layers(model):
            svd.scale.zero_()
    assert interference(model)["cosine"].isnan().all()


def test_a_model_without_an_adapter_is_refused():
    with pytest.raises(RuntimeError, match="`model` must have a Panacea adapter"):
        interference(llama())

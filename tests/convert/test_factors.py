"""The factors of a layer multiply to its update."""

import pytest
import torch

from conftest import randomise
from peft_panacea.convert.factors import as_basis, at_preference
from peft_panacea.tuner import PanaceaSVD

SHAPES = [
    (8, 1, 2, False),
    (0, 8, 3, False),
    (3, 2, 10, False),
    (4, 4, 3, True),
    (1, 1, 1, True),
    (0, 4, 3, False, True),
    (2, 1, 3, True, True),
]


def layer(r: int, preference_rank: int, m: int, white: bool, scale_per_objective: bool = False) -> PanaceaSVD:
    svd = PanaceaSVD(
        24,
        16,
        r=r,
        preference_rank=preference_rank,
        num_objectives=m,
        factor=7.0,
        dropout=0.5,
        white=white,
        scale_per_objective=scale_per_objective,
    )
    svd.reset_parameters(0.1, 0.1, 0.5)
    return svd


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_at_a_preference(shape):
    svd = layer(*shape)
    p = torch.randn(shape[2])  # the simplex is for others to watch over
    found = at_preference(svd, p)
    assert torch.equal(found.B @ found.A, svd.delta_weight(p))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_basis_adds_up_everywhere(shape):
    r, preference_rank, m, white, *_ = shape
    svd = layer(*shape)
    basis = as_basis(svd)
    ranks = [len(of_one.A) for of_one in basis]
    assert ranks == [r + m * preference_rank if white and m > 1 else r, *[preference_rank] * m]
    for p in (torch.full((m,), 1 / m), *torch.eye(m), torch.randn(m) * 3):
        total = sum(w * (of_one.B @ of_one.A) for w, of_one in zip([1.0, *p.tolist()], basis, strict=True))
        torch.testing.assert_close(total, svd.delta_weight(p), rtol=1e-5, atol=1e-5)


def test_zeros_fill_up_a_lower_rank():
    found = at_preference(layer(8, 1, 2, False), torch.tensor([0.3, 0.7]))
    filled = found.filled(16)
    assert (filled.B.shape, filled.A.shape) == ((16, 16), (16, 24))
    assert torch.equal(filled.B[:, :10], found.B)
    assert not filled.B[:, 10:].any()
    assert not filled.A[10:].any()
    assert torch.equal(found.filled(10).A, found.A)


def test_half_precision_is_multiplied_out_in_float32():
    svd = layer(4, 2, 2, False).to(torch.bfloat16)
    found = at_preference(svd, torch.tensor([0.3, 0.7]))
    assert {found.A.dtype, found.B.dtype} == {torch.float32}
    assert torch.equal(found.A, svd.Vh.float())


def test_writing_into_factors_changes_no_adapter():
    svd = layer(4, 2, 2, False)
    before = svd.Vh.clone()
    at_preference(svd, torch.tensor([0.3, 0.7])).A.zero_()
    as_basis(svd)[1].A.zero_()
    assert torch.equal(svd.Vh, before)


def test_nothing_is_recorded_for_gradients():
    assert not at_preference(randomise(layer(4, 2, 2, False)), torch.tensor([0.3, 0.7])).B.requires_grad

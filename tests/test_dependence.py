"""Three measures of dependence: against dense matrices, what leaves them alone, and what is wrong with one of them."""

from functools import partial
from itertools import permutations

import pytest
import torch
from torch import Tensor

from peft_panacea.dependence import SAMPLES, cosine2, hsic, inner, published

EVERY = {"hsic": hsic, "cosine2": cosine2, "published": published}
every = pytest.mark.parametrize("measure", EVERY.values(), ids=EVERY)


def update(rows: int = 40, columns: int = 48, rank: int = 8, lead: tuple[int, ...] = (), seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    return draw(*lead, rows, rank), draw(*lead, rank, columns)


def orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q


def kernel(samples: Tensor) -> Tensor:
    d2 = torch.cdist(samples, samples).square()
    n = len(samples)
    return torch.exp(-d2 / (2 * d2.sum() / (n * (n - 1))))


def by_quadruples(K: Tensor, L: Tensor) -> float:
    """The unbiased HSIC as the mean over all ordered quadruples of different samples."""
    terms = [K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(len(K)), 4)]
    return torch.stack(terms).mean()


def test_hsic_against_quadruples_of_dense_rows_and_columns():
    x, y = update(7, 6, rank=2), update(7, 6, rank=3, seed=1)
    X, Y = x[0] @ x[1], y[0] @ y[1] + 0.5 * x[0] @ x[1]
    y = torch.cat([y[0], 0.5 * x[0]], dim=1), torch.cat([y[1], x[1]])
    sides = []
    for K, L in ((kernel(X), kernel(Y)), (kernel(X.T), kernel(Y.T))):
        sides.append(by_quadruples(K, L) / (by_quadruples(K, K) * by_quadruples(L, L)).sqrt())
    torch.testing.assert_close(hsic(x, y), sum(sides) / 2)


def test_the_others_against_dense_matrices():
    x, y = update(), update(seed=1)
    X, Y = x[0] @ x[1], y[0] @ y[1]
    torch.testing.assert_close(inner(x, y), (X * Y).sum())
    cosine = torch.nn.functional.cosine_similarity(X.flatten(), Y.flatten(), dim=0)
    torch.testing.assert_close(cosine2(x, y), cosine**2)
    x, y = (x[0], x[1] / 8), (y[0], y[1] / 8)
    K, L = (torch.exp(-torch.cdist(V, V).square() / 2) for _, V in (x, y))
    H = torch.eye(8) - torch.ones(8, 8) / 8
    H = H.double()
    torch.testing.assert_close(published(x, y), (K @ H @ L @ H).trace() / 64)


def test_an_update_depends_on_itself_and_not_on_others():
    x, y = update(lead=(50,)), update(lead=(50,), seed=1)
    same, other = hsic(x, x), hsic(x, y)
    torch.testing.assert_close(same, torch.ones(50).double())
    assert other.abs().max() < 0.1
    assert (other < 0).any()
    assert (other > 0).any()


def test_it_is_0_in_the_mean_of_independent_updates():
    """At as few samples as the biased estimate would call half dependent."""
    found = hsic(update(12, 12, lead=(2000,)), update(12, 12, lead=(2000,), seed=1))
    assert found.mean().abs() < 3 * found.std() / 2000**0.5


def test_sharing_one_factor_counts_half():
    x, y = update(128, 128, rank=16), update(128, 128, rank=16, seed=1)
    for half in (hsic(x, (x[0], y[1])), hsic(x, (y[0], x[1]))):
        assert 0.4 < half < 0.6


@pytest.mark.parametrize("measure", [hsic, cosine2])
@pytest.mark.parametrize("factor", [1e-4, -3.0, 1e4])
def test_scaling_an_update_changes_neither_value_nor_gradient(measure, factor):
    x, y = update(), update(seed=1)
    y = x[0] + y[0], x[1] + y[1]
    torch.testing.assert_close(measure((factor * x[0], x[1]), y), measure(x, y))
    for tensor in x:
        tensor.requires_grad_()
    for tensor, slope in zip(x, torch.autograd.grad(measure(x, y), x), strict=True):
        assert slope.norm() > 0
        assert (slope * tensor).sum().abs() < 1e-10 * slope.norm() * tensor.norm(), "it rewards scaling"


@pytest.mark.parametrize("measure", [hsic, cosine2])
def test_the_factors_of_an_update_do_not_matter(measure):
    x, y, mix = update(), update(seed=1), update(8, 8, seed=2)[0]
    torch.testing.assert_close(measure((x[0] @ mix, torch.linalg.solve(mix, x[1])), y), measure(x, y))


def test_the_order_of_rows_and_columns_matters_only_between_the_two():
    x, y = update(seed=1), update()
    y = x[0] + 0.3 * y[0], x[1] + 0.3 * y[1]
    rows, columns = torch.randperm(40), torch.randperm(48)
    x_permuted, y_permuted = ((U[rows], V[:, columns]) for U, V in (x, y))
    torch.testing.assert_close(hsic(x_permuted, y_permuted), hsic(x, y))
    assert hsic(x_permuted, y) < 0.1 < hsic(x, y)


@every
def test_gradient_agrees_with_finite_differences(measure):
    tensors = [*update(6, 5, rank=4), *update(6, 5, rank=4, seed=1)]
    leaves = [(tensor / 2).requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(lambda U, V, W, Z: measure((U, V), (W, Z)), leaves)


@pytest.mark.parametrize("measure", [hsic, cosine2])
@pytest.mark.parametrize("zero", ["U", "V", "both"])
def test_an_update_of_0_depends_on_nothing_and_has_no_gradient(measure, zero):
    x, y = ([tensor.float() for tensor in update(seed=seed)] for seed in (0, 1))
    x = [torch.zeros_like(t) if zero in (name, "both") else t for name, t in zip("UV", x, strict=True)]
    leaves = [tensor.requires_grad_() for tensor in (*x, *y)]
    value = measure(tuple(x), tuple(y))
    assert value == 0
    assert all((slope == 0).all() for slope in torch.autograd.grad(value, leaves))
    assert measure(tuple(x), tuple(x)) == 0


def test_of_many_rows_some_are_drawn_the_same_of_both():
    x, y = update(3 * SAMPLES, 2 * SAMPLES), update(3 * SAMPLES, 2 * SAMPLES, seed=1)
    assert hsic(x, x).item() == pytest.approx(1)
    first, again, other = (hsic(x, y, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first == again != other
    every_row = hsic(x, (x[0] + y[0], x[1] + y[1]), samples=3 * SAMPLES)
    drawn = hsic(x, (x[0] + y[0], x[1] + y[1]), generator=torch.Generator().manual_seed(0))
    assert drawn.item() == pytest.approx(every_row.item(), abs=0.05)


@every
def test_leading_dimensions_broadcast(measure):
    x, y = update(lead=(3,)), update(lead=(2, 3), seed=1)
    one_by_one = [[measure((x[0][j], x[1][j]), (y[0][i, j], y[1][i, j])) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(measure(x, y), torch.tensor(one_by_one))


@every
def test_half_precision_is_computed_in_float32(measure):
    x, y = ([tensor.bfloat16() for tensor in update(seed=seed)] for seed in (0, 1))
    found = measure(tuple(x), tuple(y))
    assert found.dtype == torch.float32
    assert torch.equal(found, measure(*(tuple(tensor.float() for tensor in of) for of in (x, y))))


@every
def test_updates_that_do_not_fit_are_refused(measure):
    x = update()
    with pytest.raises(ValueError, match=r"`x` must be \(U \[..., out, R\], .* but got \(40, 8\) and \(7, 48\)"):
        measure((x[0], x[1][:7]), x)
    with pytest.raises(ValueError, match=r"`y` must have as many rows and columns as `x`, 40 x 48, but got 39 x 48"):
        measure(x, (x[0][:39], x[1]))


def test_too_few_samples_are_refused():
    x = update(3, 48)
    with pytest.raises(ValueError, match=r"`x` must have at least 4 rows and columns, but got 3 x 48"):
        hsic(x, x)
    with pytest.raises(ValueError, match=r"`samples` must be at least 4, but got 3"):
        hsic(update(), update(), samples=3)
    with pytest.raises(ValueError, match=r"`y` must have as many rows in V as `x`, 8, but got 9"):
        published(update(), update(rank=9))


# What is wrong with the published one. These pass because it fails.


def as_initialised(seed: int, rank: int = 64, columns: int = 4096):
    """Of the paper's model and rank: as PEFT initialises LoRA's A; B, which it does not look at, as anything."""
    torch.manual_seed(seed)
    return torch.randn(columns, rank), torch.nn.Linear(columns, rank).weight.detach()


def test_published_does_not_tell_identical_from_independent():
    for seed in range(5):
        x, y = as_initialised(seed), as_initialised(seed + 100)
        torch.testing.assert_close(published(x, y), published(x, x), rtol=0.02, atol=0)
        assert hsic(x, x) > 0.99
        assert hsic(x, y) < 0.05


def test_published_is_minimised_by_shrinking():
    x = as_initialised(0)
    values = [published(x, (x[0], scale * x[1])).item() for scale in (1, 0.5, 0.1, 0.01)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-3 * values[0]


def test_published_does_not_see_the_angle():
    x = tuple(tensor.double() for tensor in as_initialised(0, columns=512))
    turned = x[0], x[1] @ orthogonal(512)
    torch.testing.assert_close(published(x, turned), published(x, x))
    assert cosine2(x, turned) < 0.01 < cosine2(x, x)
    other_U = orthogonal(512) @ x[0], x[1]
    assert published(x, other_U) == published(x, x)
    assert cosine2(x, other_U) < 0.01

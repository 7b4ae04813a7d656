"""The grid and the random preferences: on the simplex, distributed as they say, and a function of their key alone."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_panacea.simplex import PreferenceSampler, boost_vertices, dirichlet, simplex_grid, stratified, uniform
from peft_panacea.tuner.preferences import parse_preference

ROWS = 20_000
SIGMAS = 5  # a mean of ROWS independent numbers is further off once in two million
DISTRIBUTIONS = [("stratified", 1.0), ("uniform", 1.0), ("dirichlet", 0.3), ("dirichlet", 2.5)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_mean(samples: torch.Tensor, expected: float | torch.Tensor) -> None:
    """`samples`, [n, …], have the expected mean, up to SIGMAS standard errors of n independent rows."""
    error = SIGMAS * samples.double().std(dim=0) / math.sqrt(len(samples))
    assert ((samples.double().mean(dim=0) - expected).abs() <= error + 1e-6).all()


def assert_preferences(rows: torch.Tensor) -> None:
    names = [str(i) for i in range(rows.shape[1])]
    assert rows.dtype == torch.float32
    assert (rows >= 0).all()
    torch.testing.assert_close(rows.double().sum(dim=1), torch.ones(len(rows)).double(), atol=1e-6, rtol=0)
    assert torch.equal(parse_preference(rows, names), rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(m=st.integers(1, 5), n=st.integers(1, 9))
def test_the_grid_is_every_multiple_in_order(m, n):
    brute = [k for k in itertools.product(range(n + 1), repeat=m) if sum(k) == n]  # product counts up
    grid = simplex_grid(m, n)
    assert grid.shape == (math.comb(n + m - 1, m - 1), m)
    assert torch.equal(grid, torch.tensor([[i / n for i in k] for k in brute]))
    assert_preferences(grid)
    for vertex in torch.eye(m):
        assert (grid == vertex).all(dim=1).sum() == 1


def test_the_front_of_eleven_points():
    assert simplex_grid(2, 10).tolist() == torch.tensor([[i / 10, 1 - i / 10] for i in range(11)]).tolist()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 9),
    m=st.integers(1, 12),
    distribution=st.sampled_from(DISTRIBUTIONS) | st.floats(1e-6, 1e9).map(lambda a: ("dirichlet", a)),
    q=st.floats(0, 1),
    seed=st.integers(0, 2**70),
    data=st.data(),
)
def test_every_draw_is_a_preference(n, m, distribution, q, seed, data):
    sampler = PreferenceSampler(m, *distribution, vertex_probability=q, seed=seed)
    objective = torch.tensor(data.draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n)))
    for rows in (sampler(n, step=3), sampler.given(objective, step=3)):
        assert rows.shape == (n, m)
        assert_preferences(rows)


def assert_dirichlet(rows: torch.Tensor, a: torch.Tensor) -> None:
    """First and second moments: E pᵢ = aᵢ / s and E pᵢ pⱼ = aᵢ (aⱼ + [i = j]) / s (s + 1), s = Σ a."""
    s = a.sum()
    assert_mean(rows, a / s)
    products = rows.double()[:, :, None] * rows.double()[:, None, :]
    assert_mean(products, a[:, None] * (a + torch.eye(len(a))) / (s * (s + 1)))


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize(("distribution", "a"), DISTRIBUTIONS)
def test_moments_are_those_of_dirichlet(distribution, a, m):
    sampler = PreferenceSampler(m, distribution, a)
    assert_dirichlet(sampler(ROWS), torch.full((m,), a).double())
    for i in range(m):
        biased = torch.full((m,), a).double()
        biased[i] += 1
        assert_dirichlet(sampler.given(torch.full((ROWS,), i)), biased)


@pytest.mark.parametrize(("distribution", "a"), DISTRIBUTIONS)
def test_one_row_of_many_calls_has_the_distribution_too(distribution, a):
    """Strata would also have the right moments over the rows of one call if a row always fell into the same one."""
    sampler = PreferenceSampler(3, distribution, a)
    assert_dirichlet(torch.stack([sampler(4, step=step)[1] for step in range(2000)]), torch.full((3,), a).double())
    objective = torch.tensor([2, 0, 0, 0])
    rows = torch.stack([sampler.given(objective, step=step)[1] for step in range(2000)])
    assert_dirichlet(rows, torch.tensor([a + 1, a, a]).double())


def test_uniform_has_the_uniform_distribution_function():
    first = uniform(ROWS, 3, seeded())[:, 0].double()
    for x in (0.1, 0.3, 0.7):  # the first of m entries is Beta(1, m - 1)
        assert_mean((first <= x).double(), 1 - (1 - x) ** 2)


FUNCTIONS = {
    "one": lambda p: torch.ones(len(p)).double(),
    "entry": lambda p: p[:, 0],
    "square": lambda p: p[:, 1] ** 2,
    "wave": lambda p: torch.sin(7 * p[:, 0] + 3 * p[:, -1]),
    "border": lambda p: (p.amin(dim=1) < 0.05).double(),
    "vertex": lambda p: (p.amax(dim=1) == 1).double(),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("q", [0.0, 0.25])
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("distribution", "a"), DISTRIBUTIONS)
def test_size_bias_identity(distribution, a, m, q, function):
    """E_π[pᵢ f(p)] = E_π[pᵢ] · E_πᵢ[f(p)], with two independent sides."""
    sampler = PreferenceSampler(m, distribution, a, vertex_probability=q)
    p = sampler(ROWS).double()
    for i in range(m):
        weighted = p[:, i] * function(p)
        biased = function(sampler.given(torch.full((ROWS,), i)).double()) / m
        error = SIGMAS * math.sqrt((weighted.var() + biased.var()) / ROWS)
        assert abs(weighted.mean() - biased.mean()) <= error + 1e-6


@pytest.mark.parametrize(("distribution", "a"), DISTRIBUTIONS)
def test_rows_of_their_objectives_need_no_weights(distribution, a):
    """The use of it: Σᵢ pᵢ Lᵢ(p) over all p, against the plain losses of rows that have one objective each."""
    losses = (lambda p: (1 - p[:, 0]) ** 2, lambda p: torch.exp(p[:, 1]), lambda p: p[:, 0] * p[:, 2])
    sampler = PreferenceSampler(3, distribution, a, vertex_probability=0.1)
    p = sampler(ROWS).double()
    full = sum(p[:, i] * loss(p) for i, loss in enumerate(losses))
    objective = torch.arange(ROWS) % 3
    p = sampler.given(objective).double()
    plain = torch.stack([loss(p) for loss in losses], dim=1).gather(1, objective[:, None])[:, 0]
    assert abs(full.mean() - plain.mean()) <= SIGMAS * math.sqrt((full.var() + plain.var()) / ROWS)


@pytest.mark.parametrize("q", [0.0, 0.2, 1.0])
def test_vertices_are_as_frequent_as_asked(q):
    sampler = PreferenceSampler(3, vertex_probability=q)
    is_vertex = (sampler(ROWS)[:, None, :] == torch.eye(3)).all(dim=2).double()
    assert_mean(is_vertex, q / 3)
    objective = torch.arange(ROWS) % 3
    is_vertex = (sampler.given(objective)[:, None, :] == torch.eye(3)).all(dim=2).double()
    assert is_vertex.sum() == is_vertex.gather(1, objective[:, None]).sum()  # none but its own
    assert_mean(is_vertex.sum(dim=1), q)


def test_boosting_leaves_the_other_rows_and_its_input():
    before = uniform(50, 3, seeded())
    kept = before.clone()
    after = boost_vertices(before, 0.5, seeded(1))
    assert torch.equal(before, kept)
    assert ((after == before).all(dim=1) ^ (after.amax(dim=1) == 1)).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(0, 12), min_size=2, max_size=2).filter(any), seed=st.integers(0, 2**32))
def test_two_objectives_fill_every_stratum_once(counts, seed):
    n = sum(counts)
    first = PreferenceSampler(2, seed=seed)(n)[:, 0].double()
    assert (first.sort().values * n - torch.arange(n) - 0.5).abs().max() <= 0.5 + 1e-4
    objective = torch.tensor([0] * counts[0] + [1] * counts[1])[torch.randperm(n, generator=seeded(seed))]
    rows = PreferenceSampler(2, seed=seed).given(objective)
    for i, count in enumerate(counts):  # the own entry has distribution function x²
        quantile = (rows[objective == i, i].double() ** 2).sort().values
        assert ((quantile * count - torch.arange(count) - 0.5).abs() <= 0.5 + 1e-4).all()


def discrepancy(rows: torch.Tensor) -> float:
    """Largest |share of the rows - share of the simplex| over the sets {pᵢ ≤ x}, pᵢ ~ Beta(1, m - 1)."""
    n, m = rows.shape
    quantile = (1 - (1 - rows.double()) ** (m - 1)).sort(dim=0).values
    steps = torch.arange(n + 1)[:, None] / n
    return max((steps[1:] - quantile).max(), (quantile - steps[:-1]).max())


@pytest.mark.parametrize("m", [2, 3, 5, 10])
@pytest.mark.parametrize("n", [4, 8, 12, 32])
def test_stratified_rows_are_more_even_than_independent_ones(n, m):
    even, loose = ([sample(n, m, seeded(i)) for i in range(200)] for sample in (stratified, uniform))
    assert sum(map(discrepancy, even)) < 0.9 * sum(map(discrepancy, loose))
    for function in (lambda p: p, lambda p: p**2, lambda p: p[:, :1] * p[:, 1:]):
        a, b = (torch.stack([function(rows).mean(dim=0) for rows in draws]).var(dim=0) for draws in (even, loose))
        assert a.mean() < 0.8 * b.mean()


def test_rows_of_one_objective_are_more_even_than_independent_ones():
    objective = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0])
    variances = []
    for distribution in ("stratified", "uniform"):
        sampler = PreferenceSampler(3, distribution)
        draws = torch.stack([sampler.given(objective, step=step) for step in range(300)])
        variances.append(torch.stack([draws[:, objective == i, i].mean(dim=1).var() for i in range(3)]))
    assert (variances[0] < 0.3 * variances[1]).all()


@pytest.mark.parametrize(("distribution", "a"), DISTRIBUTIONS)
def test_a_draw_is_a_function_of_its_key(distribution, a):
    sampler = PreferenceSampler(3, distribution, a, vertex_probability=0.1, seed=5)
    objective = torch.tensor([0, 2, 1, 1])
    keys = [{"step": s, "micro_step": t, "rank": r} for s, t, r in itertools.product(range(3), repeat=3)]
    forward = [(sampler(4, **key), sampler.given(objective, **key)) for key in keys]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = PreferenceSampler(3, distribution, a, vertex_probability=0.1, seed=5)
    backward = [(again.given(objective, **key), again(4, **key)) for key in reversed(keys)]
    assert torch.equal(torch.get_rng_state(), state)
    for (p, biased), (biased_again, p_again) in zip(forward, reversed(backward), strict=True):
        assert torch.equal(p, p_again)
        assert torch.equal(biased, biased_again)


def test_other_keys_give_independent_draws():
    n = 256
    objective = torch.zeros(n, dtype=torch.long)
    columns = []
    for seed, step, micro_step, rank in itertools.product(range(3), repeat=4):
        key = {"step": step, "micro_step": micro_step, "rank": rank}
        sampler = PreferenceSampler(2, "uniform", seed=seed)
        columns += [sampler(n, **key)[:, 0], sampler.given(objective, **key)[:, 0]]
    correlation = torch.corrcoef(torch.stack(columns).double()).fill_diagonal_(0)
    assert correlation.abs().max() * math.sqrt(n) < 6  # 13,000 pairs
    assert abs(correlation.mean()) * math.sqrt(n) < 0.05


def test_digits_of_a_key_do_not_run_together():
    assert not torch.equal(PreferenceSampler(2, seed=1)(4, step=23), PreferenceSampler(2, seed=12)(4, step=3))


def test_the_default_device_does_not_matter():
    sampler = PreferenceSampler(3, vertex_probability=0.2)
    objective = torch.tensor([0, 1])
    expected = [sampler(2), sampler.given(objective), dirichlet(2, 3, 0.5, seeded()), simplex_grid(3, 2)]
    with torch.device("meta"):
        found = [sampler(2), sampler.given(objective), dirichlet(2, 3, 0.5, seeded()), simplex_grid(3, 2)]
    assert all(map(torch.equal, found, expected))


def test_samplers_use_the_global_generator_when_asked_for_none():
    def boosted(n, m):
        return boost_vertices(torch.full((n, m), 1 / m), 0.5)

    for draw in (uniform, stratified, partial(dirichlet, concentration=2.0), boosted):
        torch.manual_seed(3)
        first = draw(5, 3)
        torch.manual_seed(3)
        assert torch.equal(draw(5, 3), first)


new, ROW = PreferenceSampler, PreferenceSampler(2)
INTEGER = "must be an integer of at least"
BAD = [
    (lambda: new(0), f"`objectives` {INTEGER} 1, but got 0."),
    (lambda: new(2, "sobol"), "`distribution` must be one of stratified, uniform, dirichlet, but got 'sobol'."),
    (
        lambda: new(2, concentration=2.0),
        "`concentration` must be 1 unless `distribution` is 'dirichlet', but got 2.0.",
    ),
    (lambda: new(2, "dirichlet", 0.0), "`concentration` must be a finite number of at least 1e-06, but got 0.0."),
    (lambda: new(2, "dirichlet", math.inf), "but got inf."),
    (lambda: new(2, "dirichlet", math.nan), "but got nan."),
    (lambda: new(2, concentration=True), "but got True."),
    (lambda: new(2, concentration="1"), "but got '1'."),
    (lambda: new(2, vertex_probability=1.1), "`vertex_probability` must be a number from 0 to 1, but got 1.1."),
    (lambda: new(2, vertex_probability=math.nan), "but got nan."),
    (lambda: new(2, seed=-1), f"`seed` {INTEGER} 0, but got -1."),
    (lambda: ROW(0), f"`n` {INTEGER} 1, but got 0."),
    (lambda: ROW(3, step=1.5), f"`step` {INTEGER} 0, but got 1.5."),
    (lambda: ROW(3, micro_step=-1), f"`micro_step` {INTEGER} 0, but got -1."),
    (lambda: ROW.given(torch.tensor([0]), rank=None), f"`rank` {INTEGER} 0, but got None."),
    (lambda: ROW.given(torch.tensor([0, 2])), "`objective` must hold integers from 0 to 1, but got 2."),
    (lambda: ROW.given(torch.tensor([-1, 1])), "`objective` must hold integers from 0 to 1, but got -1."),
    (lambda: ROW.given(torch.tensor([[0]])), "`objective` must have shape (n,), n ≥ 1, but got (1, 1)."),
    (lambda: ROW.given(torch.tensor([]).long()), "`objective` must have shape (n,), n ≥ 1, but got (0,)."),
    (lambda: ROW.given(torch.ones(2)), "`objective` must be a tensor of integers, but got one of torch.float32."),
    (lambda: ROW.given([0, 1]), "`objective` must be a tensor of integers, but got list."),
    (lambda: stratified(3, 0), f"`m` {INTEGER} 1, but got 0."),
    (lambda: dirichlet(3, 2, -1.0), "`concentration` must be a finite number of at least 1e-06, but got -1.0."),
    (lambda: boost_vertices(torch.eye(2), -0.1), "`probability` must be a number from 0 to 1, but got -0.1."),
    (lambda: boost_vertices(torch.ones(2), 0.1), "`preferences` must have shape (n, m), but got (2,)."),
    (lambda: simplex_grid(0, 3), f"`m` {INTEGER} 1, but got 0."),
    (lambda: simplex_grid(2.0, 3), f"`m` {INTEGER} 1, but got 2.0."),
    (lambda: simplex_grid(2, True), f"`n` {INTEGER} 1, but got True."),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[bad[1] for bad in BAD])
def test_anything_else_is_refused_in_one_sentence(call, message):
    with pytest.raises(TypeError if "must be a tensor" in message else ValueError, match=r"\A`.*\.\Z") as caught:
        call()
    assert message in str(caught.value)

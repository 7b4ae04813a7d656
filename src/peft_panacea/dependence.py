"""How much two updates of a weight depend on each other, from their factors; [out, in] is never formed.

An update is ΔW = U V, given as (U [..., out, R], V [..., R, in]). Leading dimensions, such as layers, broadcast
and have a value each. The two updates may differ in R. Values are float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor

Update = tuple[Tensor, Tensor]

SAMPLES = 128
"""How many rows, and how many columns, are looked at: values of independent updates then stray by about 0.01."""

FEWEST = 4
"""The least for which the estimator is defined."""


def hsic(x: Update, y: Update, samples: int = SAMPLES, generator: torch.Generator | None = None) -> Tensor:
    """Normalised HSIC of two updates, the mean over rows and columns as samples.

    Row a of x and row a of y are what the two updates write to output a; columns are what they read from an input.
    Rows alone would call updates dependent that share U and independent ones that share V, columns the other way
    round; so sharing one of both counts about half. Of each: a kernel exp(-d² / 2σ²), where σ² is the mean of d² over
    pairs; HSIC without bias (Song et al. 2012); that of x and y divided by the root of that of x and x times that of
    y and y, as in CKA (Kornblith et al. 2019).

    The bandwidth belongs to the function and has its gradient, so that neither the value nor its gradient rewards
    scaling an update. A mean has it everywhere, and is 0 for no update but a constant one, which a median is not.

    Args:
        x: (U, V), of at least 4 rows and columns.
        y: The same, of as many.
        samples: How many rows and columns are drawn where there are more, the same of x and y.
        generator: On the CPU, what draws them.

    Returns:
        [...], within [-1, 1]: 1 for an update and itself, 0 in the mean for independent ones, thus negative about half
        of the time, and 0 without gradient if one of them is 0.

    Raises:
        ValueError: other shapes, or `samples` below 4.
    """
    x, y = _checked(x, y)
    if samples < FEWEST:
        raise ValueError(f"`samples` must be at least {FEWEST}, but got {samples}.")
    if min(x[0].shape[-2], x[1].shape[-1]) < FEWEST:
        raise ValueError(f"`x` must have at least {FEWEST} rows and columns, but got {_size(x)}.")
    columns = [(V.mT, U.mT) for U, V in (x, y)]
    return (_over_rows(x, y, samples, generator) + _over_rows(columns[0], columns[1], samples, generator)) / 2


def cosine2(x: Update, y: Update) -> Tensor:
    """⟨x, y⟩² / (‖x‖² ‖y‖²), the squared cosine of the angle between two updates; 0 without gradient if one is 0.

    As a penalty it is an orthogonality constraint. What is orthogonal may still be dependent.

    Returns:
        [...], within [0, 1].

    Raises:
        ValueError: as for `hsic`, of shapes.
    """
    x, y = _checked(x, y)
    return _quotient(inner(x, y).square(), inner(x, x) * inner(y, y))


def published(x: Update, y: Update) -> Tensor:
    """tr(K H L H) / R² as in the code released with MVA (arXiv 2511.17579); for comparison, not for use.

    The samples are the R rows of V, K and L are their kernels exp(-d² / 2), H is the centring. What is wrong with it:
    rows drawn alike are about equally far from each other, so that identical and independent V have one value at the
    start; the bandwidth is fixed, so that shrinking V minimises it; it knows distances within each V alone, and not U,
    so that it does not see the angle between the updates.

    Returns:
        [...], at least 0.

    Raises:
        ValueError: as for `hsic`, of shapes, or the updates differ in R.
    """
    x, y = _checked(x, y)
    R = x[1].shape[-2]
    if y[1].shape[-2] != R:
        raise ValueError(f"`y` must have as many rows in V as `x`, {R}, but got {y[1].shape[-2]}.")
    K, L = (torch.exp(-_squared_distances(V @ V.mT) / 2) for _, V in (x, y))
    H = torch.eye(R, dtype=K.dtype, device=K.device) - 1 / R
    return ((H @ K @ H) * L).sum((-2, -1)) / R**2


def inner(x: Update, y: Update) -> Tensor:
    """⟨x, y⟩, the sum over all entries of their product, [...]."""
    return ((x[0].mT @ y[0]) * (x[1] @ y[1].mT)).sum((-2, -1))


def _over_rows(x: Update, y: Update, samples: int, generator: torch.Generator | None) -> Tensor:
    rows = x[0].shape[-2]
    if rows > samples:
        index = torch.randperm(rows, generator=generator)[:samples].to(x[0].device)
        x, y = ((U.index_select(-2, index), V) for U, V in (x, y))
    a, b = (_centred_kernel(U @ (V @ V.mT) @ U.mT) for U, V in (x, y))
    norms = a.square().sum((-2, -1)) * b.square().sum((-2, -1))
    return _quotient((a * b).sum((-2, -1)), norms, root=True)


def _centred_kernel(gram: Tensor) -> Tensor:
    """The kernel, centred so that the sum of products of two of these is n (n - 3) times the unbiased HSIC.

    That is the U-centring of Székely & Rizzo (2014). It takes any constant away, so 1 may go before: of an update of
    zeros nothing is left, not even rounding.
    """
    n = gram.shape[-1]
    d2 = _squared_distances(gram)
    variance = d2.sum((-2, -1), keepdim=True) / (n * (n - 1))
    kernel = torch.expm1(-d2 / (2 * torch.where(variance > 0, variance, 1)))
    rows = kernel.sum(-1, keepdim=True) / (n - 2)
    centred = kernel - rows - rows.mT + kernel.sum((-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    return centred * (1 - torch.eye(n, dtype=kernel.dtype, device=kernel.device))


def _squared_distances(gram: Tensor) -> Tensor:
    """Between all samples, from their products."""
    squares = gram.diagonal(dim1=-2, dim2=-1)
    return (squares[..., :, None] + squares[..., None, :] - 2 * gram).clamp_min(0)


def _quotient(above: Tensor, below: Tensor, root: bool = False) -> Tensor:
    """What is above by what is below, or by its root; 0 where that is 0, with a gradient of 0."""
    positive = below > 0
    below = torch.where(positive, below, 1)
    return torch.where(positive, above / (below.sqrt() if root else below), 0)


def _checked(x: Update, y: Update) -> tuple[Update, Update]:
    """Both in float32 or better, of the same number of rows and columns."""
    for name, (U, V) in (("x", x), ("y", y)):
        if U.ndim < 2 or V.ndim < 2 or U.shape[-1] != V.shape[-2]:
            raise ValueError(
                f"`{name}` must be (U [..., out, R], V [..., R, in]), but got {tuple(U.shape)} and {tuple(V.shape)}."
            )
    if _size(x) != _size(y):
        raise ValueError(f"`y` must have as many rows and columns as `x`, {_size(x)}, but got {_size(y)}.")
    dtype = torch.promote_types(torch.promote_types(x[0].dtype, y[0].dtype), torch.float32)
    return (x[0].to(dtype), x[1].to(dtype)), (y[0].to(dtype), y[1].to(dtype))


def _size(x: Update) -> str:
    return f"{x[0].shape[-2]} x {x[1].shape[-1]}"

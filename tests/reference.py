"""The slow, obvious twin of the tuner: W(p) = W0 + c · U diag(sigma, scale · z) Vh, built explicitly, row by row."""

import torch
from torch import Tensor


@torch.no_grad()
def dense_weight(
    W0: Tensor, U: Tensor, Vh: Tensor, sigma: Tensor | None, scale: Tensor, p: Tensor, c: float, R: int
) -> Tensor:
    """W(p), [out, in], in float64."""
    diagonal = [] if sigma is None else [float(s) for s in sigma]
    for factor, weight in zip(scale.expand(len(p)), p, strict=True):
        diagonal += [float(factor) * float(weight)] * R
    S = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    return W0.double() + c * U.double() @ S @ Vh.double()


@torch.no_grad()
def dense_forward(x: Tensor, bias: Tensor, preference: Tensor, **weights: object) -> Tensor:
    """W(p) x + bias in float64, each row of x under its own row of `preference` if that has rows."""
    rows = preference if preference.ndim == 2 else preference.expand(x.shape[0], -1)
    return torch.stack(
        [row.double() @ dense_weight(p=p, **weights).T + bias.double() for row, p in zip(x, rows, strict=True)]
    )

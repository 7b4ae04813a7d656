"""The update of one layer as products B A, at a preference or as a basis for all of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..tuner import PanaceaSVD


class Factors(NamedTuple):
    """Of an update B A, in float32 or better, on the CPU."""

    B: Tensor
    """[out, k]"""
    A: Tensor
    """[k, in]"""

    def filled(self, rank: int) -> Factors:
        """The same product with k = `rank`, by directions of zeros."""
        missing = rank - len(self.A)
        return Factors(nn.functional.pad(self.B, (0, missing)), nn.functional.pad(self.A, (0, 0, 0, missing)))


@torch.no_grad()
def at_preference(svd: PanaceaSVD, preference: Tensor) -> Factors:
    """B A = ΔW(p), of k = r + m·R, for one preference [m]: U's columns times the gain, and Vᵀ."""
    return _some(svd, svd.gain(preference.to(svd.scale.device)), slice(None))


@torch.no_grad()
def as_basis(svd: PanaceaSVD) -> list[Factors]:
    """Factors of 1 + m updates with ΔW(p) = B₀ A₀ + Σᵢ pᵢ Bᵢ Aᵢ for all real p.

    In raw coordinates the first has the r shared directions, perhaps none, and that of objective i its own R. In white
    ones the first also takes what the centre of the simplex subtracts, and has all r + m·R.
    """
    m, R = svd.num_objectives, svd.preference_rank
    r = svd.U.shape[1] - m * R
    constant = svd.gain(torch.zeros(m, device=svd.scale.device))
    slopes = (svd.factor * svd.scale * svd.inverse_std).expand(m)
    own = [_some(svd, slopes[i], slice(r + i * R, r + (i + 1) * R)) for i in range(m)]
    first = slice(None) if svd.centre else slice(r)
    return [_some(svd, constant[first], first), *own]


def _some(svd: PanaceaSVD, gain: Tensor, directions: slice) -> Factors:
    dtype = torch.promote_types(svd.U.dtype, torch.float32)
    B, A = svd.U[:, directions].to(dtype) * gain.to(dtype), svd.Vh[directions].to(dtype)
    return Factors(B.cpu().contiguous(), A.cpu().clone())

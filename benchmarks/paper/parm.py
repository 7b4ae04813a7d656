"""Bilinear conditioning after PARM's PBLoRA: a learned matrix between V and U in place of diag(scale · p).

ΔW(p) = c · (U₁ diag(sigma) V₁ᵀ + U₂ (Σᵢ pᵢ Mᵢ) V₂ᵀ), every Mᵢ full, and 0 at the start as the scale is. PARM has a full
matrix in the first term, too, which the product with U₁ makes redundant up to its rank.
"""

import torch
from peft import PeftModel
from torch import Tensor, nn

from peft_panacea.tuner import PanaceaSVD


class Bilinear(PanaceaSVD):
    """The same ranks, U and V; `core` is [m, m·R, m·R]."""

    def forward(self, x: Tensor, preference: Tensor) -> Tensor:
        r = 0 if self.sigma is None else len(self.sigma)
        core = torch.einsum("...i,ijk->...jk", preference, self.core)
        h = self.dropout(x) @ self.V
        shared = h[..., :r] if self.sigma is None else h[..., :r] * self.sigma
        steered = h[..., r:]
        if core.ndim == 3 and steered.ndim == 2:
            steered = torch.einsum("bj,bjk->bk", steered, core)
        else:
            steered = steered @ core
        return self.factor * (torch.cat([shared, steered], dim=-1) @ self.U.T)


def make_bilinear(model: PeftModel) -> None:
    """Turn every adapter of the model into a bilinear one, in place, before training."""
    for module in model.modules():
        if isinstance(module, PanaceaSVD):
            r = 0 if module.sigma is None else len(module.sigma)
            k = module.U.shape[1] - r
            module.__class__ = Bilinear
            module.core = nn.Parameter(torch.zeros(k // module.preference_rank, k, k))
            del module.scale
            module.scale = None

"""What may be varied: the settings of Panacea, and adapters that the package does not have, made in place."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from peft_panacea.training import PreferenceArguments
from peft_panacea.tuner import PanaceaSVD


@dataclass(frozen=True)
class Settings:
    """What an experiment or an ablation sets of Panacea; separate models keep the defaults."""

    way: str = "row"
    vertex_probability: float | None = None
    aggregation: str = "linear"
    r: int = 8
    preference_rank: int = 1
    scaling: float | str = 1.0
    learning_rate: float | None = None
    scale_per_objective: bool = False
    bilinear: bool = False
    monotone: bool = False

    def preferences(self) -> PreferenceArguments:
        return PreferenceArguments(
            preference_per=self.way, vertex_probability=self.vertex_probability, aggregation=self.aggregation
        )


class Bilinear(PanaceaSVD):
    """Bilinear conditioning after PARM's PBLoRA: ΔW(p) = c · (U₁ diag(sigma) V₁ᵀ + U₂ (Σᵢ pᵢ Mᵢ) V₂ᵀ).

    The ranks, U and V are Panacea's; Mᵢ, `core[i]`, is a full matrix [m·R, m·R], 0 at the start as the scale is.
    PARM has a full matrix in the first term as well; the product with U₁ already spans what it can.
    """

    def forward(self, x: Tensor, preference: Tensor) -> Tensor:
        r = 0 if self.sigma is None else len(self.sigma)
        core = torch.einsum("...i,ijk->...jk", preference, self.core)
        h = nn.functional.linear(self.dropout(x), self.Vh)
        shared = h[..., :r] if self.sigma is None else h[..., :r] * self.sigma
        steered = h[..., r:] @ core
        return self.factor * (torch.cat([shared, steered], dim=-1) @ self.U.T)


class Monotone(PanaceaSVD):
    """A learned power of the preference, one exponent for each matrix, 1 at the start: no longer linear in p."""

    def gain(self, preference: Tensor) -> Tensor:
        return super().gain(preference.clamp(min=1e-6) ** self.exponent.exp())


def change(model: PeftModel, settings: Settings) -> None:
    """Turn every adapter of the model into the variant that the settings ask for."""
    for module in [module for module in model.modules() if isinstance(module, PanaceaSVD)]:
        m = (module.U.shape[1] - (0 if module.sigma is None else len(module.sigma))) // module.preference_rank
        if settings.scale_per_objective:
            module.scale = nn.Parameter(module.scale.detach().repeat(m))
        if settings.monotone:
            module.__class__ = Monotone
            module.exponent = nn.Parameter(torch.zeros(1))
        if settings.bilinear:
            k = m * module.preference_rank
            module.__class__ = Bilinear
            module.core = nn.Parameter(torch.zeros(m, k, k))
            del module.scale
            module.scale = None

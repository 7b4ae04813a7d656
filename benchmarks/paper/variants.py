"""What may be varied: the settings of Panacea, and adapters that the package does not have, made in place."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from peft_panacea.training import PreferenceArguments
from peft_panacea.tuner import PanaceaLayer, PanaceaSVD
from peft_panacea.tuner.state import Held


@dataclass(frozen=True)
class Settings:
    """What an experiment or an ablation sets of Panacea; separate models keep the defaults."""

    way: str = "row"
    vertex_probability: float | None = None
    aggregation: str = "linear"
    r: int = 8
    preference_rank: int = 1
    coordinates: str = "raw"
    scaling: float | str = 1.0
    dropout: float = 0.0
    averaging: bool = False
    learning_rate: float | None = None
    beta: float | None = None
    scale_per_objective: bool = False
    bilinear: bool = False
    monotone: bool = False

    def preferences(self) -> PreferenceArguments:
        return PreferenceArguments(
            preference_per=self.way, vertex_probability=self.vertex_probability, aggregation=self.aggregation
        )


class Variant(PanaceaSVD):
    """Another function of the parameters of an adapter, which it takes over."""

    def __init__(self, svd: PanaceaSVD) -> None:
        nn.Module.__init__(self)
        self.preference_rank, self.factor, self.dropout = svd.preference_rank, svd.factor, svd.dropout
        self.centre, self.inverse_std = svd.centre, svd.inverse_std
        self.U, self.Vh, self.sigma, self.scale, self.watch = svd.U, svd.Vh, svd.sigma, svd.scale, None
        self.m = (self.U.shape[1] - (0 if self.sigma is None else len(self.sigma))) // self.preference_rank


class ScalePerObjective(Variant):
    """One learned factor for each objective."""

    def __init__(self, svd: PanaceaSVD) -> None:
        super().__init__(svd)
        self.scale = nn.Parameter(self.scale.detach().repeat(self.m))


class Monotone(Variant):
    """A learned power of the preference, one exponent for each matrix, 1 at the start: no longer linear in p."""

    def __init__(self, svd: PanaceaSVD) -> None:
        super().__init__(svd)
        self.exponent = nn.Parameter(torch.zeros(1))

    def gain(self, preference: Tensor) -> Tensor:
        return super().gain(preference.clamp(min=1e-6) ** self.exponent.exp())


class Bilinear(Variant):
    """Bilinear conditioning after PARM's PBLoRA: ΔW(p) = c · (U₁ diag(sigma) V₁ᵀ + U₂ (Σᵢ pᵢ Mᵢ) V₂ᵀ).

    The ranks, U and V are Panacea's; Mᵢ, `core[i]`, is a full matrix [m·R, m·R], 0 at the start as the scale is.
    PARM has a full matrix in the first term as well; the product with U₁ already spans what it can.
    """

    def __init__(self, svd: PanaceaSVD) -> None:
        super().__init__(svd)
        k = self.m * self.preference_rank
        self.core = nn.Parameter(torch.zeros(self.m, k, k))
        self.scale = None

    def forward(self, result: Tensor, x: Tensor, held: Held, in_place: bool = False, settled: bool = False) -> Tensor:
        r = 0 if self.sigma is None else len(self.sigma)
        core = torch.einsum("...i,ijk->...jk", held.on(x.device), self.core)
        h = nn.functional.linear(self.dropout(x), self.Vh)
        shared = h[..., :r] if self.sigma is None else h[..., :r] * self.sigma
        steered = h[..., r:] @ core
        return result + self.factor * (torch.cat([shared, steered], dim=-1) @ self.U.T)


def change(model: PeftModel, settings: Settings) -> None:
    """Put the variants that the settings ask for in place of every adapter of the model."""
    wanted = {
        ScalePerObjective: settings.scale_per_objective,
        Monotone: settings.monotone,
        Bilinear: settings.bilinear,
    }
    for layer in [module for module in model.modules() if isinstance(module, PanaceaLayer)]:
        for name, svd in layer.panacea_svd.items():
            for variant in (variant for variant, is_wanted in wanted.items() if is_wanted):
                svd = variant(svd)
            layer.panacea_svd[name] = svd

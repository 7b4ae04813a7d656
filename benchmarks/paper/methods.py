"""What is compared. Every method is trained by the same recipe; they differ in what is trained how long."""

from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model

from peft_panacea import PanaceaConfig
from peft_panacea.tuner import PanaceaSVD


def adapters(model: PeftModel) -> dict[str, PanaceaSVD]:
    return {name: module for name, module in model.named_modules() if isinstance(module, PanaceaSVD)}


@torch.no_grad()
def factors(module: PanaceaSVD, fixed: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """B [out, k] and A [k, in] of a separate model, so that ΔW = B A."""
    return module.U * module.gain(torch.tensor(fixed, dtype=torch.float32)), module.Vh


@torch.no_grad()
def soup(experiment: Any, specialists: list[PeftModel]) -> PeftModel:
    """Rewarded Soups as one steerable adapter: ΔW(p) = Σᵢ pᵢ ΔWᵢ exactly, one block of ranks for each specialist."""
    m = len(experiment.objectives)
    found = _of_all(specialists, m)
    R = next(iter(found[0].values()))[0].shape[1]
    model = get_peft_model(
        experiment.base_model(),
        PanaceaConfig(
            objectives=experiment.objectives, r=0, preference_rank=R, coordinates="raw", task_type="CAUSAL_LM"
        ),
    )
    for name, module in adapters(model).items():
        module.U.copy_(torch.cat([own[name][0] for own in found], dim=1) / module.factor)
        module.Vh.copy_(torch.cat([own[name][1] for own in found]))
        module.scale.fill_(1.0)
    return model


@torch.no_grad()
def soup_of_factors(experiment: Any, specialists: list[PeftModel], preference: list[float]) -> PeftModel:
    """The soup that averages A and B apart, each weighed by √pᵢ, as PEFT's `combination_type="linear"` does.

    It is in the block of the first objective: look at it under that vertex.
    """
    m = len(experiment.objectives)
    found = _of_all(specialists, m)
    model = soup(experiment, specialists)
    for name, module in adapters(model).items():
        module.U.zero_()
        k = module.preference_rank
        B, A = (sum(np.sqrt(p) * own[name][j] for p, own in zip(preference, found, strict=True)) for j in (0, 1))
        module.U[:, :k], module.Vh[:k] = B / module.factor, A
    return model


def _of_all(specialists: list[PeftModel], m: int) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    vertices = np.eye(m).tolist()
    return [
        {name: factors(module, vertex) for name, module in adapters(model).items()}
        for vertex, model in zip(vertices, specialists, strict=True)
    ]

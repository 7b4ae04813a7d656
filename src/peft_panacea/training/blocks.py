"""The directions that each objective owns, and how far those of two objectives have to do with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..dependence import Update, hsic, inner
from ..tuner import PanaceaLayer, PanaceaSVD, first_active, get_objectives


class Blocks:
    """Some layers of one shape; their updates of objective i are c · scale · U[i] V[i], up to a constant.

    Args:
        layers: L layers, which have m objectives and R directions for each.

    Attributes:
        U: [m, L, out, R], a copy through which gradients pass.
        V: [m, L, R, in].
        gain: [m, L], c · scale and what white coordinates multiply it by.
    """

    def __init__(self, layers: list[PanaceaSVD]) -> None:
        m, R = layers[0].num_objectives, layers[0].preference_rank
        self.U = torch.stack([svd.U[:, -m * R :].reshape(-1, m, R).movedim(1, 0) for svd in layers], dim=1)
        self.V = torch.stack([svd.Vh[-m * R :].reshape(m, R, -1) for svd in layers], dim=1)
        self.gain = torch.stack([(svd.factor * svd.inverse_std * svd.scale).expand(m) for svd in layers], dim=1)

    def __getitem__(self, i: Any) -> Update:
        """(U, V) of one objective, or of several."""
        return self.U[i], self.V[i]


def all_blocks(model: nn.Module) -> Iterator[Blocks]:
    """Those of the first active Panacea adapter, one for each shape of its layers."""
    name = first_active(model)
    alike: dict[Any, list[PanaceaSVD]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, PanaceaLayer) and name in module.panacea_svd:
            svd: Any = module.panacea_svd[name]
            alike[svd.U.shape[0], svd.Vh.shape[1], svd.U.device].append(svd)
    return map(Blocks, alike.values())


@torch.no_grad()
def interference(model: nn.Module) -> dict[str, Tensor]:
    """What the updates of each two objectives have to do with each other.

    Args:
        model: A model with a Panacea adapter; the first active one is looked at.

    Returns:
        `cosine`: [m, m], of the angle between the updates of all layers taken together, with their scales; NaN where
        an update is 0. `dependence`: [m, m], the mean over layers of `dependence.hsic`, of rows and columns that are
        always the same; it knows no scale. Both float64 on the CPU.

    Raises:
        RuntimeError: `model` has no Panacea adapter.
    """
    m = len(get_objectives(model))
    products, dependence, layers = torch.zeros(m, m).double(), torch.zeros(m, m).double(), 0
    for blocks in all_blocks(model):
        U, V, gain = blocks.U.double(), blocks.V.double(), blocks.gain.double()
        layers += gain.shape[1]
        for i in range(m):
            products[i] += (inner((U[i], V[i]), (U, V)) * gain[i] * gain).sum(dim=1).cpu()
            rows = torch.Generator().manual_seed(0)
            dependence[i] += hsic((U[i], V[i]), (U, V), generator=rows).sum(dim=1).cpu()
    norms = products.diagonal().sqrt()
    return {"cosine": products / norms[:, None] / norms, "dependence": dependence / layers}

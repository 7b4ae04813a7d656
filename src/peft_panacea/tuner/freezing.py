"""Leaving what all objectives share as it is, while their own directions are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .svd import PanaceaSVD


@contextmanager
def shared_frozen(model: nn.Module) -> Iterator[None]:
    """Within the block nothing that all objectives share gets a gradient: shared directions, sigma, a single scale.

    Make optimizers within the block, so that they do not know what has none.

    Args:
        model: With Panacea adapters, whose configuration says what is shared.

    Raises:
        RuntimeError: a scale that all objectives share is 0, as in a new adapter, so that they would learn nothing.
    """
    adapters = [module for module in model.modules() if isinstance(module, PanaceaSVD)]
    shared = [parameter for svd in adapters for parameter in svd.shared_parameters()]
    if any(svd.shares_scale and not svd.scale.any() for svd in adapters):
        raise RuntimeError(
            "`scale` must not be 0 where it is frozen because all objectives share it, but it is, as in every new "
            "adapter; give the objectives scales of their own, `scale_per_objective=True`."
        )
    trained = [parameter for parameter in shared if parameter.requires_grad]
    for svd in adapters:
        svd.trains_shared = False
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for svd in adapters:
            svd.trains_shared = True
        for parameter in trained:
            parameter.requires_grad_(True)

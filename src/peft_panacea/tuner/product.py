"""result + (x V ⊙ gain) Uᵀ: the update is added in the product that makes it, not in a pass of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def add_update(result: Tensor, x: Tensor, U: Tensor, Vh: Tensor, gain: Tensor, in_place: bool) -> Tensor:
    """The sum, written into `result` if that is allowed and the dtypes agree.

    Args:
        result: [..., out].
        x: [..., in], of the dtype of U and Vh.
        U: [out, k].
        Vh: [k, in].
        gain: [k], or anything that broadcasts against [..., k], float32 or better.
        in_place: Whether nobody else has `result`.

    Returns:
        [..., out], of the dtype that `result` and the update promote to.
    """
    if torch._C._are_functorch_transforms_active():
        return add_plainly(result, x, U, Vh, gain)
    if torch.is_autocast_enabled(x.device.type):
        # With or without gradients, so that both round alike: RL divides a likelihood from one by that from the other.
        x, U, Vh = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, U, Vh))
    if torch.is_grad_enabled():
        if result.dtype == U.dtype and result.is_contiguous():
            # Into a view autograd writes by a detour that costs more than it saves.
            in_place = in_place and not result._is_view()
            return _AddUpdate.apply(result, x, U, Vh, gain, in_place)  # type: ignore[no-untyped-call]
        return add_plainly(result, x, U, Vh, gain)
    h = linear(x, Vh)
    h.mul_(gain)
    if in_place and result.dtype == h.dtype == U.dtype and result.is_contiguous():
        result.view(-1, U.shape[0]).addmm_(h.view(-1, U.shape[1]), U.t())
        return result
    return result + linear(h, U)


def add_plainly(result: Tensor, x: Tensor, U: Tensor, Vh: Tensor, gain: Tensor) -> Tensor:
    """The same in single operations, for `torch.compile`, which fuses them itself, and functional transforms."""
    # A product with V [in, k] would round a row differently at another place in the batch (MKL, float32, k = 10).
    return result + linear(_gained(linear(x, Vh), gain), U)


def _gained(h: Tensor, gain: Tensor) -> Tensor:
    return (h * gain).to(h.dtype)


class _AddUpdate(torch.autograd.Function):
    """The sum, of one dtype, and its gradients.

    Autograd would keep h ⊙ gain as well and run a node for each step.
    """

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, U: Tensor, Vh: Tensor, gain: Tensor, in_place: bool) -> Tensor:
        h = linear(x, Vh)
        ctx.save_for_backward(x, U, Vh, gain, h)
        if in_place:
            ctx.mark_dirty(result)
        else:
            # Not a view of what `torch.addmm` returns: into a view that was made in here nobody may write later.
            result = result.clone()
        result.view(-1, U.shape[0]).addmm_(_gained(h, gain).view(-1, U.shape[1]), U.t())
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, U, Vh, gain, h = ctx.saved_tensors
        if torch.is_grad_enabled():  # for gradients of gradients h must have a history
            h = linear(x, Vh)
        of_result, of_x, of_U, of_Vh, of_gain, _ = ctx.needs_input_grad
        rows = grad.reshape(-1, U.shape[0])
        d = (rows @ U).view(h.shape)  # of h ⊙ gain
        dh = _gained(d, gain).view(-1, U.shape[1])
        return (
            grad if of_result else None,
            (dh @ Vh).view(x.shape) if of_x else None,
            # As the product of [k, N] and [N, out] it takes half the time of its transpose.
            (_gained(h, gain).view(-1, U.shape[1]).t() @ rows).t() if of_U else None,
            dh.t() @ x.reshape(-1, Vh.shape[1]) if of_Vh else None,
            (d.to(gain.dtype) * h).sum_to_size(gain.shape) if of_gain else None,
            None,
        )

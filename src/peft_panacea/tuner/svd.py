"""The mathematics of one adapted layer: ΔW(p) = c · U diag(sigma, scale · z(p)) Vᵀ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .product import add_plainly, add_update
from .state import Held
from .watch import Watch, can_be_watched


def whitening(m: int) -> tuple[float, float]:
    """The centre of the simplex and the inverse standard deviation of an entry that is uniform on it.

    (p - centre) · inverse has mean 0 and variance 1 in every entry, because one of Dirichlet(1, …, 1) has variance
    (m - 1) / (m² (m + 1)). One objective alone has nothing to be told from: (0, 1).
    """
    return (1 / m, m * math.sqrt((m + 1) / (m - 1))) if m > 1 else (0.0, 1.0)


def gain(sigma: Tensor | None, scale: Tensor, coordinates: Tensor, preference_rank: int) -> Tensor:
    """The singular values (sigma, scale · z), the entries of z repeated `preference_rank` times.

    Args:
        sigma: [r], or None if r = 0.
        scale: [1], or [m] with one for each objective.
        coordinates: Of the preference, [..., m].
        preference_rank: Singular directions per objective, R.

    Returns:
        [..., r + m·R]; objective i owns the entries r + i·R to r + (i + 1)·R.
    """
    steered = scale * coordinates
    if preference_rank > 1:
        steered = steered.repeat_interleave(preference_rank, dim=-1)
    if sigma is None:
        return steered
    return torch.cat([sigma.expand(*coordinates.shape[:-1], -1), steered], dim=-1)


def delta_weight(U: Tensor, Vh: Tensor, gain: Tensor) -> Tensor:
    """U diag(gain) Vᵀ, [out, in], for a gain of shape [k]."""
    return (U * gain) @ Vh


HALF_PRECISION = (torch.bfloat16, torch.float16)


class PanaceaSVD(nn.Module):
    """The parameters of one adapter on one layer, and what they add to the layer's output.

    They lie as a LoRA's do, `U` as its B and `Vh` as its A, and have the names of `torch.linalg.svd`.

    Attributes:
        U: [out, r + m·R], left singular directions.
        Vh: [r + m·R, in], right singular directions.
        sigma: [r], singular values shared by all objectives; None if r = 0.
        scale: [1], learned factor of the preference, or [m] with one for each objective.
        factor: The constant c.
        centre, inverse_std: Of the coordinates z(p) = (p - centre) · inverse_std.
        trains_shared: Whether gradients reach the shared directions.
        watch: Over the parameters that the gain is made of; None after what may be followed by a write.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        r: int,
        preference_rank: int,
        num_objectives: int,
        factor: float,
        dropout: float,
        white: bool = False,
        scale_per_objective: bool = False,
    ) -> None:
        super().__init__()
        k = r + num_objectives * preference_rank
        self.num_objectives = num_objectives
        self.preference_rank = preference_rank
        self.factor = factor
        self.centre, self.inverse_std = whitening(num_objectives) if white else (0.0, 1.0)
        self.dropout = nn.Dropout(dropout)
        self.U = nn.Parameter(torch.empty(out_features, k))
        self.Vh = nn.Parameter(torch.empty(k, in_features))
        self.sigma = nn.Parameter(torch.empty(r, dtype=torch.float32)) if r else None
        self.scale = nn.Parameter(torch.empty(num_objectives if scale_per_objective else 1, dtype=torch.float32))
        self.trains_shared = True
        self.watch: Watch | None = None

    def reset_parameters(self, std_u: float, std_v: float, std_gain: float = 0.0) -> None:
        """U ~ N(0, std_u²), Vh ~ N(0, std_v²), sigma and scale ~ N(0, std_gain²): with std_gain = 0, ΔW = 0."""
        if self.U.is_meta:  # where torch takes longer to draw nothing than to do anything else in loading an adapter
            return
        nn.init.normal_(self.U, std=std_u)
        nn.init.normal_(self.Vh, std=std_v)
        for diagonal in self._diagonal():
            nn.init.normal_(diagonal, std=std_gain)

    def gain(self, preference: Tensor) -> Tensor:
        """The constant c times (sigma, scale · z(p)), [..., r + m·R], for a preference [..., m]."""
        return self.factor * gain(self.sigma, self.scale, self.coordinates(preference), self.preference_rank)

    def coordinates(self, preference: Tensor) -> Tensor:
        """z(p), [..., m]: p itself, or centred and of unit variance."""
        return (preference - self.centre) * self.inverse_std if self.centre else preference

    def forward(self, result: Tensor, x: Tensor, held: Held, in_place: bool = False, settled: bool = False) -> Tensor:
        """Add ΔW(p) x to `result`.

        Args:
            result: [B, ..., out], the output of the base layer.
            x: [B, ..., in], its input.
            held: The preference, [m], [B, m] with one for every row, or [B, T, m] with one for every token.
            in_place: Whether nobody else has `result`, so that it may be written into.
            settled: Whether what was kept with the preference is known to hold.
        """
        if held.batch:
            check_batch(x, held)
        dropout: Any = self._modules["dropout"]  # `self.dropout` is a slow way to it
        if dropout.training:
            x = dropout(x)
        if torch.compiler.is_compiling():
            return add_plainly(result, x, *self._trained(), self._make_gain(x, held))
        if torch.is_grad_enabled() or self.training:
            self.watch = None  # an update may follow
            return add_update(result, x, *self._trained(), self._make_gain(x, held), in_place)
        kept = held.gains.get((self, x.ndim))
        gain = kept[1] if kept is not None and (settled or self.is_current(kept[0])) else self._keep_gain(x, held)
        return add_update(result, x, self.U, self.Vh, gain, in_place)

    def _trained(self) -> tuple[Tensor, Tensor]:
        """U and Vh, their shared directions without gradient where they are not trained."""
        if self.trains_shared or self.sigma is None:
            return self.U, self.Vh
        r = len(self.sigma)
        U = torch.cat([self.U[:, :r].detach(), self.U[:, r:]], dim=1)
        return U, torch.cat([self.Vh[:r].detach(), self.Vh[r:]])

    @property
    def shares_scale(self) -> bool:
        """Whether one scale serves several objectives."""
        return len(self.scale) < self.num_objectives

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that belong to no objective as a whole: sigma, and a scale that serves several."""
        scale = [self.scale] if self.shares_scale else []
        return scale if self.sigma is None else [self.sigma, *scale]

    def is_current(self, watch: Watch) -> bool:
        """Whether what was made under this watch would be the same if it were made now, as far as can be seen."""
        return watch is self.watch and watch.holds(self._parameters)

    def _keep_gain(self, x: Tensor, held: Held) -> Tensor:
        """The gain, made for this preference once and for all until something changes."""
        # Before the gain is made, so that a write in between makes it out of date.
        watch = self.watch
        if watch is None or not watch.holds(self._parameters):
            diagonal: dict[str, Any] = {name: self._parameters.get(name) for name in ("sigma", "scale")}
            watched = {name: parameter for name, parameter in diagonal.items() if parameter is not None}
            if not watched or not all(map(can_be_watched, watched.values())):  # while sharded there may be none
                return self._make_gain(x, held)
            watch = self.watch = Watch(watched)
        gain = self._make_gain(x, held)
        held.gains[self, x.ndim] = watch, gain
        return gain

    def _make_gain(self, x: Tensor, held: Held) -> Tensor:
        """The gain, in a shape that broadcasts against x V."""
        g = self.gain(held.on(x.device))
        return g if g.ndim == 1 else g.view(*held.batch, *[1] * (x.ndim - g.ndim), -1)

    def delta_weight(self, preference: Tensor) -> Tensor:
        """ΔW(p), [out, in], in float32 or better, for one preference [m]."""
        dtype = torch.promote_types(self.U.dtype, torch.float32)
        return delta_weight(self.U.to(dtype), self.Vh.to(dtype), self.gain(preference).to(dtype))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "watch": None}  # the address is of this process

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PanaceaSVD:
        # sigma and scale stay float32 under .to(bfloat16) and .half(): a half-precision diagonal stops learning,
        # because 1.0 + 1e-3 rounds back to 1.0.
        before = [(p, p.data) for p in self._diagonal()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for parameter, data in before:
            if parameter.dtype in HALF_PRECISION:
                parameter.data = data.to(parameter.device)
        return self

    def train(self, mode: bool = True) -> PanaceaSVD:
        # TRL casts the adapter of a quantised model to bfloat16 parameter by parameter, past `_apply`. Trainers come
        # by here before a step, so the diagonal is cast back; but not once DDP holds buffers of the other dtype.
        cast = [parameter.dtype for parameter in self._diagonal() if parameter.dtype in HALF_PRECISION]
        if cast and torch.distributed.is_available() and torch.distributed.is_initialized():
            raise RuntimeError(
                f"`sigma` and `scale` must be float32 to learn, but were cast to {cast[0]}; cast them back before the "
                "model is wrapped, as docs/initialisation.md says."
            )
        self.restore_diagonal()
        self.watch = None
        return super().train(mode)

    def restore_diagonal(self) -> None:
        """Cast sigma and scale back to float32 if something cast them to half precision."""
        for parameter in self._diagonal():
            if parameter.dtype in HALF_PRECISION:
                parameter.data = parameter.data.float()

    def _diagonal(self) -> list[nn.Parameter]:
        return [parameter for parameter in (self.sigma, self.scale) if parameter is not None]


def check_batch(x: Tensor, held: Held) -> None:
    """Refuse a preference per row or token for other rows or tokens, even where it would broadcast."""
    n = len(held.batch)
    if x.ndim > n and x.shape[:n] == held.batch:
        return
    if n == 2:
        raise ValueError(
            "`preference` must have one entry for every token of the batch, but got one for each of "
            f"{tuple(held.batch)} for a layer input of shape {tuple(x.shape)}."
        )
    raise ValueError(
        f"`preference` must have one row for every row of the batch, but got {held.batch[0]} rows "
        f"for a layer input of shape {tuple(x.shape)}. Where rows are repeated (beams, "
        "`num_return_sequences`) repeat the preference's too; where they are flattened use one preference, or one "
        "for every token."
    )

"""One forward for rows that serve several objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.rows import exchange


class SharedForward:
    """Stands in for a model: its rows go through it once, and the other objectives get them exchanged.

    It serves losses that are computed from outputs by row, as TRL's are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.output: Any = None
        self.first: Any = None

    def turn_to(self, label: Tensor) -> None:
        """The next call has the pairs exchanged where `label`, [B], is negative."""
        self.exchanged = label < 0
        if self.first is None:
            self.first = self.exchanged

    def __call__(self, **inputs: Any) -> Any:
        if self.output is None:
            self.output = self.model(**inputs)
            return self.output
        n = inputs["input_ids"].shape[0]
        order = exchange({"input_ids": torch.arange(n)}, self.exchanged.logical_xor(self.first))["input_ids"]

        def rows(value: Any) -> Any:
            return value[order.to(value.device)] if isinstance(value, Tensor) and value.shape[:1] == (n,) else value

        return type(self.output)(**{key: rows(value) for key, value in self.output.items()})

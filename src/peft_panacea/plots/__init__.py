"""Figures of fronts and training logs, legible in print: plain matplotlib figures; pyplot is left alone."""

from ..extras import needs

with needs("eval"):
    from .fronts import plot_fronts
    from .positions import plot_positions
    from .training import plot_training

__all__ = ["plot_fronts", "plot_positions", "plot_training"]

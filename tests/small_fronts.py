"""Fronts made of noise around a square root of the weights."""

import numpy as np

from peft_panacea.front import Front
from peft_panacea.simplex import simplex_grid

LINE = simplex_grid(2, 4).numpy().astype(float)
TRIANGLE = simplex_grid(3, 2).numpy().astype(float)


def front(*, seed=0, P=12, weights=LINE, gain=1.0, **others):
    rng = np.random.default_rng(seed)
    K, m = weights.shape
    base = rng.normal(size=(P, m))
    scores = base + gain * np.sqrt(weights)[:, None] + 0.3 * rng.normal(size=(K, P, m))
    effects = {"length": rng.normal(20, 3, size=(K, P)), "KL": rng.uniform(0, 2, size=(K, P))}
    common = {
        "base": base,
        "side_effects": effects,
        "base_side_effects": {"length": rng.normal(18, 3, size=P), "KL": np.zeros(P)},
        "details": {"seed": seed, "prompts": "p", "more": [np.float32(0.5), {"n": np.int64(3), "a": np.arange(2)}]},
    }
    return Front(["a", "b", "c"][:m], weights, scores, **{**common, **others})


UNITS = {"normalisation": ([0.5, -1], [2, 0.25]), "reference": [-3, -2], "maximise": [True, False]}

"""How else the adapter may be trained: blocks alone (soups, MVA, PEO), then jointly; and its rival in the prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import set_seed

from experiment import Experiment
from peft_panacea import PanaceaConfig
from peft_panacea.front import Front
from peft_panacea.metrics import non_dominated
from peft_panacea.simplex import PreferenceSampler
from peft_panacea.training import DecorrelationArguments, DecorrelationMixin, PreferenceArguments, interference
from variants import Settings

RANK = 8  # of each objective, as in the default adapter


@dataclass(frozen=True)
class Method:
    """How it is trained, and at which preferences it is measured.

    Args:
        train: (experiment, seed) → model.
        off_simplex: Coefficients that are tried on the prompts for development, whose non-dominated ones are measured
            on those for testing; None for the experiment's grid.
    """

    train: Callable[[Experiment, int], PeftModel]
    off_simplex: Callable[[int], np.ndarray] | None = None


def cube(m: int, steps: int) -> np.ndarray:
    """MVA's grid: each coefficient free in {1/steps, …, 1}."""
    axis = np.arange(1, steps + 1) / steps
    return np.stack(np.meshgrid(*[axis] * m, indexing="ij"), axis=-1).reshape(-1, m)


def around(m: int, steps: int) -> np.ndarray:
    """Coefficients that sum to 1 and lie in [-1/2, 3/2]; two objectives."""
    first = np.linspace(-0.5, 1.5, 2 * steps + 1)
    return np.stack([first, 1 - first], axis=1)


def new_blocks(e: Experiment) -> PeftModel:
    config = PanaceaConfig(
        objectives=e.objectives, r=0, preference_rank=RANK, scale_per_objective=True, task_type="CAUSAL_LM"
    )
    return get_peft_model(e.base_model(), config)


def train_blocks(
    e: Experiment, seed: int, share: float = 1.0, dependence: str | None = None, alpha: float = 1.0
) -> PeftModel:
    """One objective after the other, each for 1/m of this share of the steps; MVA where `dependence` is penalised."""
    set_seed(seed)
    model, m = new_blocks(e), len(e.objectives)
    for i, name in enumerate(e.objectives):
        arguments = PreferenceArguments(trained_objectives=[name])
        options = e.options(None, Settings(), round(e.steps * share / m), seed + 1000 * i)
        trainer = e.panacea
        if dependence is not None:
            trainer = type("MVATrainer", (DecorrelationMixin, e.panacea), {})
            options["decorrelation_args"] = DecorrelationArguments(alpha, dependence, e.objectives[:i])
        train(trainer(model, preference_args=arguments, **options))
    return model


def train(trainer: Any) -> None:
    """With the base model as reference: of a `PeftModel` TRL takes a copy of its adapter as it is."""
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    trainer.train()


def soup_then_joint(e: Experiment, seed: int) -> PeftModel:
    """Half of the steps for the blocks alone, half for all jointly."""
    model = train_blocks(e, seed, share=0.5)
    options = e.options(None, Settings(), e.steps // 2, seed + 5000)
    train(e.panacea(model, preference_args=PreferenceArguments(), **options))
    return model


def joint(e: Experiment, seed: int) -> PeftModel:
    return e.train_one(None, Settings(r=0, preference_rank=RANK), e.steps, seed)


METHODS: dict[str, Method] = {
    "soup": Method(train_blocks),
    "soup, extrapolated": Method(train_blocks, partial(cube, steps=5)),
    "PEO, around the generalist": Method(train_blocks, partial(around, steps=5)),
    "MVA, interpolated": Method(partial(train_blocks, dependence="hsic")),
    "MVA": Method(partial(train_blocks, dependence="hsic"), partial(cube, steps=5)),
    "MVA, orthogonal": Method(partial(train_blocks, dependence="cosine"), partial(cube, steps=5)),
    "MVA, published, α 10": Method(partial(train_blocks, dependence="published", alpha=10.0), partial(cube, steps=5)),
    "joint": Method(joint),
    "joint, extrapolated": Method(joint, partial(cube, steps=5)),
    "soup, then joint": Method(soup_then_joint),
}
IN_THE_PROMPT = "preference in the prompt, trained"


def measure(e: Experiment, model: PeftModel, method: Method) -> tuple[Front, dict[str, Any]]:
    """The front on the prompts for testing, and what was chosen on those for development."""
    if method.off_simplex is None:
        return e.front(model, e.grid, base=True), {}
    tried = method.off_simplex(len(e.objectives))
    on_development = e.front(model, tried, prompts=e.development)
    kept = non_dominated(on_development.values)
    return e.front(model, tried[kept], base=True), {"tried": len(tried), "kept": int(kept.sum())}


def has_to_do_with(model: PeftModel) -> dict[str, Any]:
    """What the blocks of a model have to do with each other, for a table."""
    return {
        name: [[round(x, 4) for x in row] for row in matrix.tolist()] for name, matrix in interference(model).items()
    }


def train_reader(e: Any, seed: int) -> PeftModel:
    """A plain LoRA of the same rank that reads the preference in the prompt, after RiC and conditional DPO.

    Its rows are drawn as those of the mixin are: each for one of its objectives, under a preference given that.
    """
    set_seed(seed)
    m = len(e.objectives)
    config = PanaceaConfig(objectives=1, r=0, preference_rank=m * RANK, task_type="CAUSAL_LM")
    model = get_peft_model(e.base_model(), config)
    rows = e.data(None, e.steps, seed)
    rng = np.random.default_rng(seed)
    order = np.resize(rng.permutation(len(rows)), e.steps * e.rows)
    labels = np.array(rows["objective_labels"])[order]
    objective = np.array([rng.choice(np.flatnonzero(label)) for label in labels])
    drawn = PreferenceSampler(m, vertex_probability=0.5, seed=seed).given(torch.tensor(objective))
    told = []
    for position, i, label, preference in zip(order.tolist(), objective, labels, drawn.tolist(), strict=True):
        better, worse = ("chosen", "rejected") if label[i] > 0 else ("rejected", "chosen")
        row = rows[position]
        told.append({"prompt": e.asked(row["prompt"], preference), "chosen": row[better], "rejected": row[worse]})
    options = e.options([1.0] + [0.0] * (m - 1), Settings(), e.steps, seed)
    e.separate(model, **{**options, "train_dataset": Dataset.from_list(told)}).train()
    return model

"""What each part of the adapter learns from: the mean of all objectives' gradients, or what sets one apart.

    OMP_NUM_THREADS=1 python benchmarks/paper/gradient_shares.py --shared ../shared

Takes the gradient Gᵢ of every style's loss on stories260K, and of every reward's policy gradient, with respect to the
adapted weights. Writes `docs/results/gradient_shares.json`; `coordinates.py --tables` makes a table of it.
Minutes on one core.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from experiment import Experiment
from peft_panacea.completions import encode, log_probabilities, sample
from public_data import public_data
from story_rewards import TOKENS, StoryRewards
from story_styles import LENGTH, StoryStyles
from variants import Settings

RESULT = Path(__file__).resolve().parents[2] / "docs/results/gradient_shares.json"
PROMPTS, SAMPLES, ROWS = 64, 8, 128


def gradient(model: Any, loss: Tensor, keep: bool = False) -> Tensor:
    """With respect to the weights of all adapted layers, in one row."""
    weights = [m.get_base_layer().weight for m in model.modules() if isinstance(m, BaseTunerLayer)]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=keep)])


def of_styles(experiment: StoryStyles, model: Any, prompts: list[str]) -> Tensor:
    found = []
    for style in experiment.objectives:
        texts = [experiment.completion(p, style) for p in prompts]
        rows = encode(experiment.tokenizer, prompts, texts, max_length=LENGTH)
        found.append(gradient(model, -(log_probabilities(model, rows).sum() / rows.completion.sum())))
    return torch.stack(found)


def of_rewards(experiment: StoryRewards, model: Any, prompts: list[str]) -> Tensor:
    """REINFORCE with the mean of a prompt's completions as baseline; each reward in its standard deviations."""
    asked = [p for p in prompts for _ in range(SAMPLES)]
    with torch.no_grad():
        rows = sample(model, experiment.tokenizer, asked, max_new_tokens=TOKENS)
    scores = torch.tensor(np.stack([reward(rows.texts) for reward in experiment.rewards.values()])).float()
    grouped = (scores / scores.std(dim=1, keepdim=True)).unflatten(1, (-1, SAMPLES))
    advantages = (grouped - grouped.mean(dim=2, keepdim=True)).flatten(1)
    m, found = len(advantages), torch.zeros(())
    for part in torch.arange(len(asked)).split(ROWS):
        log_p = log_probabilities(model, rows.select(part)).sum(1)
        losses = [-(advantages[i, part] * log_p).sum() / len(asked) for i in range(m)]
        found = found + torch.stack([gradient(model, loss, keep=i + 1 < m) for i, loss in enumerate(losses)])
    return found


def parts(one: Tensor, other: Tensor) -> dict[str, float]:
    """Squared norms of the mean of the m gradients, and, in the mean, of what sets one apart from it.

    Of two independent estimates [m, n] of the same gradients, whose noise has no product in the mean.
    """
    means = one.mean(0), other.mean(0)
    own = ((one - means[0]) * (other - means[1])).sum(1).mean()
    return {"common": float(means[0] @ means[1]), "own": float(own)}


def common_share(common: float, own: float, m: int, vertices: float) -> float:
    """The share of the mean gradient in the squared gradient of one objective's block under raw coordinates.

    The block sees E[p_i Σ_j p_j G_j], with E[p_i p_j] = (1 - q) (1 + δ_ij) / (m (m + 1)) + q δ_ij / m where a share q
    of the preferences are vertices: (a·m + b) parts of the mean, b parts of what sets objective i apart from it.
    """
    a = (1 - vertices) / (m * (m + 1))
    b = a + vertices / m
    seen = (a * m + b) ** 2 * common
    return seen / (seen + b**2 * own)


def table() -> str:
    lines = ["| | ‖common‖² : ‖own‖² | raw | raw, half vertices | white |", "|---|---|---|---|---|"]
    for name, case in json.loads(RESULT.read_text(encoding="utf-8"))["cases"].items():
        common, own = max(case["common"], 0.0), case["own"]
        raw = [common_share(common, own, case["m"], vertices) for vertices in (0.0, 0.5)]
        lines.append(f"| {name} | {common / own:.2f} | {raw[0]:.0%} | {raw[1]:.0%} | 0% |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    shared = public_data(args.shared)
    torch.manual_seed(0)
    cases: dict[str, tuple[Experiment, Any]] = {
        **{f"SFT, {m} styles": (StoryStyles(shared, m), of_styles) for m in (2, 4, 10)},
        **{
            f"RL, {' and '.join(names)}": (StoryRewards(shared, list(names)), of_rewards)
            for names in (("valence", "brevity"), ("valence", "brevity", "dialogue"))
        },
    }
    found = {}
    for name, (experiment, gradients) in cases.items():
        model = experiment.adapted(None, Settings())
        for layer in model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.get_base_layer().weight.requires_grad_(True)
        half = len(experiment.train[: 2 * PROMPTS]) // 2
        halves = [gradients(experiment, model, experiment.train[i * half : (i + 1) * half]) for i in (0, 1)]
        found[name] = {"m": len(experiment.objectives), **parts(*halves)}
        print(name, found[name], flush=True)
    report = {"command": "python benchmarks/paper/gradient_shares.py", "seed": 0, "cases": found}
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What three measures of dependence say of updates that are identical, independent, scaled and turned, and their cost.

    OMP_NUM_THREADS=1 python benchmarks/decorrelation.py --shared ../shared

Updates are drawn as they are initialised. The cost is that of the penalty between two objectives, forward and back,
beside a DPO step: forward and backward of `compute_loss`, with the rows and lengths of the experiments, sides by turns
in one process. `--only` measures the estimators or the cost again; `--table` measures nothing. The tables go to
`docs/decorrelation.md`.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl
from trl import DPOTrainer

from performance.timing import alternate, machine, quartiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks" / "paper"))

import peft_panacea  # noqa: E402
from chat_pairs import ChatPairs  # noqa: E402
from experiment import QUIET, Experiment  # noqa: E402
from peft_panacea.dependence import Update, cosine2, hsic, published  # noqa: E402
from peft_panacea.training import (  # noqa: E402
    DecorrelationArguments,
    DecorrelationMixin,
    ObjectiveLossMixin,
    PreferenceArguments,
)
from peft_panacea.training.blocks import all_blocks  # noqa: E402
from story_pairs import StoryPairs  # noqa: E402
from variants import Settings  # noqa: E402

RESULT, PAGE = ROOT / "docs/results/decorrelation.json", ROOT / "docs/decorrelation.md"
MEASURES: dict[str, Callable[..., torch.Tensor]] = {"hsic": hsic, "cosine": cosine2, "published": published}
SEEDS = 50
BUDGET = 240  # seconds for the sides of one model


class MVATrainer(DecorrelationMixin, ObjectiveLossMixin, DPOTrainer):
    pass


# What they say


def drawn() -> dict[str, Callable[[], Update]]:
    def panacea() -> Update:
        return torch.randn(576, 8) * 0.02, torch.randn(8, 576) * 0.02

    def lora() -> Update:
        return torch.randn(4096, 64), torch.nn.Linear(4096, 64).weight.detach()

    return {"ours, 576 x 576, R = 8": panacea, "LoRA's A, 4096 x 4096, R = 64": lora}


def partners(x: Update, other: Update) -> dict[str, Update]:
    """Of x; "V turned" is a V of the same distances between its rows, in another subspace, with the same U."""
    turn = torch.linalg.qr(torch.randn(x[1].shape[1], x[1].shape[0])).Q.T
    basis = torch.linalg.qr(x[1].T)
    return {
        "identical": x,
        "identical, times 0.1": (x[0], 0.1 * x[1]),
        "independent": other,
        "V turned": (x[0], basis.R.T @ turn),
    }


def estimators() -> list[dict[str, Any]]:
    rows = []
    for size, draw in drawn().items():
        values: dict[tuple[str, str], list[float]] = {}
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            x, other = draw(), draw()
            for partner, y in partners(x, other).items():
                for name, measure in MEASURES.items():
                    options = {"generator": torch.Generator().manual_seed(seed)} if name == "hsic" else {}
                    values.setdefault((name, partner), []).append(measure(x, y, **options).item())
        for (name, partner), found in values.items():
            spread = {"mean": statistics.fmean(found), "std": statistics.stdev(found)}
            rows.append({"size": size, "measure": name, "partner": partner, **spread})
    return rows


# What they cost


def experiments(shared: Path) -> Iterator[tuple[str, Experiment]]:
    yield "stories260K", StoryPairs(shared)
    yield "SmolLM2-135M", ChatPairs(shared)


def cost(shared: Path) -> list[dict[str, Any]]:
    rows = []
    for name, experiment in experiments(shared):
        torch.manual_seed(0)
        model = experiment.adapted(None, Settings(r=0, preference_rank=8))
        common = {"output_dir": "runs/mva/unused", "per_device_train_batch_size": experiment.rows}
        trainer = MVATrainer(
            model,
            args=experiment.arguments(None, **common, **experiment.precision, **QUIET),
            train_dataset=experiment.data(None, 1, 0),
            processing_class=experiment.tokenizer,
            preference_args=PreferenceArguments(trained_objectives=experiment.objectives[1:]),
            decorrelation_args=DecorrelationArguments(earlier=experiment.objectives[:1]),
        )
        model.train()
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))

        def backward(make: Callable[[], torch.Tensor], model: Any = model) -> None:
            make().backward()
            model.zero_grad()

        def set_to(kind: str, weight: float, trainer: Any = trainer) -> None:
            trainer.decorrelation_args.dependence, trainer.decorrelation_args.decorrelation = kind, weight

        def step(kind: str, weight: float, trainer: Any = trainer, batch: Any = batch) -> None:
            set_to(kind, weight)
            backward(partial(trainer.compute_loss, trainer.model, batch))
            trainer._metrics["train"].clear()

        def penalty(kind: str, trainer: Any = trainer) -> None:
            set_to(kind, 1.0)
            backward(trainer._dependence)
            trainer._dependences.clear()

        steps = {"step": partial(step, "hsic", 0.0), "step, hsic": partial(step, "hsic", 1.0)}
        alone = {kind: partial(penalty, kind) for kind in MEASURES}
        turns = alternate(steps, BUDGET) | alternate(alone, BUDGET / 8)
        layers = sum(blocks.gain.shape[1] for blocks in all_blocks(model))
        rows.append(
            {
                "model": name,
                "layers": layers,
                "rows": experiment.rows,
                "tokens": list(batch["input_ids"].shape),
                "turns": {side: len(values) for side, values in turns.items()},
                "seconds": {side: quartiles(values) for side, values in turns.items()},
            }
        )
    return rows


# What is shown


def tables(report: dict[str, Any]) -> dict[str, str]:
    found = report["estimators"]
    others = list(dict.fromkeys(r["partner"] for r in found))
    said = [f"| updates | measure | {' | '.join(others)} |", "|---" * (2 + len(others)) + "|"]
    for size, measure in dict.fromkeys((r["size"], r["measure"]) for r in found):
        own = [r for r in found if (r["size"], r["measure"]) == (size, measure)]
        cells = " | ".join(f"{r['mean']:.3g} ± {r['std']:.1g}" for r in own)
        said.append(f"| {size} | `{measure}` | {cells} |")
    costs = [f"| model | adapted layers | DPO step | with `hsic` | {' | '.join(f'`{kind}`' for kind in MEASURES)} |"]
    costs.append("|---" * (4 + len(MEASURES)) + "|")
    for row in report["cost"]:
        median = {side: quartile[1] for side, quartile in row["seconds"].items()}
        cells = " | ".join(f"{1e3 * median[kind]:.0f} ms, {median[kind] / median['step']:.1%}" for kind in MEASURES)
        both = f"{median['step']:.2f} s | {median['step, hsic']:.2f} s"
        costs.append(f"| {row['model']} | {row['layers']} | {both} | {cells} |")
    return {"estimators": "\n".join(said), "cost": "\n".join(costs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--only", choices=["estimators", "cost"])
    parser.add_argument("--table", action="store_true", help="only write the tables")
    args = parser.parse_args()
    report = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if not args.table:
        report["machine"] = machine()
        report["machine"]["versions"] |= {module.__name__: module.__version__ for module in (trl, peft_panacea)}
        if args.only != "cost":
            report["estimators"] = estimators()
        if args.only != "estimators":
            report["cost"] = cost(args.shared.resolve())
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    for name, content in tables(report).items():
        new = f"<!-- {name} -->\n{content}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

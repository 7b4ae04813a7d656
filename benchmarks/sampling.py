"""Which preferences to train on: distributions, and one preference per row or per batch, for 2, 3 and 10 objectives.

    OMP_NUM_THREADS=1 python examples/data/answers.py --config examples/storyteller/ten_answers.yaml
    OMP_NUM_THREADS=1 python benchmarks/sampling.py --output docs/results/sampling.json

Fine-tunes the embedded tiny language model on its own best answers in 2, 3 or 10 styles of the storyteller's
`styles.py` and measures the aggregated loss Σᵢ pᵢ Lᵢ(p), nats per token, on held-out prompts: at the vertices, at 6
preferences drawn uniformly, and at the centre. All ways have the same steps and rows. Resumable: finished runs are in
the output.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from tqdm.auto import tqdm
from transformers import AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

import peft_panacea
from peft_panacea import PanaceaConfig
from peft_panacea.data import json_preferences
from peft_panacea.simplex import PreferenceSampler
from peft_panacea.training import ObjectiveLossMixin, PreferenceArguments

ROOT = Path(__file__).resolve().parent.parent
STYLES = [
    "cheerful",
    "brief",
    "spoken",
    "gloomy",
    "colourful",
    "feminine",
    "masculine",
    "asking",
    "exclaiming",
    "long",
]
OBJECTIVES, SEEDS, STEPS, HELD_OUT = (2, 3, 10), range(3), 80, 24
ROWS = {2: 32, 3: 33, 10: 40}
WAYS = {
    "row, uniform": {"vertex_probability": 0.0},
    "row, Dirichlet(1/m)": {"vertex_probability": 0.0, "preference_distribution": "dirichlet"},
    "row, half vertices": {"vertex_probability": 0.5},
    "batch, uniform": {"preference_per": "batch"},
    "batch, half vertices": {"preference_per": "batch", "vertex_probability": 0.5},
}


class PanaceaSFTTrainer(ObjectiveLossMixin, SFTTrainer):
    pass


def run(way: str, m: int, seed: int, rows: Dataset) -> dict[str, object]:
    """Train once and measure."""
    set_seed(seed)
    objectives = STYLES[:m]
    prompts = list(dict.fromkeys(rows["prompt"]))
    test = set(prompts[:HELD_OUT])
    own = rows.filter(lambda row: row["objective"] < m)
    options = dict(WAYS[way])
    if options.get("preference_distribution") == "dirichlet":
        options["preference_concentration"] = 1 / m
    model = str(ROOT / "examples" / "storyteller" / "model")
    with tempfile.TemporaryDirectory() as folder:
        trainer = PanaceaSFTTrainer(
            model=model,
            args=SFTConfig(
                folder, max_steps=STEPS, per_device_train_batch_size=ROWS[m], per_device_eval_batch_size=64, seed=seed,
                learning_rate=3e-3, warmup_steps=8, max_length=128, bf16=False, gradient_checkpointing=False,
                save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=own.filter(lambda row: row["prompt"] not in test),
            eval_dataset=own.filter(lambda row: row["prompt"] in test),
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=PanaceaConfig(objectives=objectives, r=8, preference_rank=1, task_type="CAUSAL_LM"),
            preference_args=PreferenceArguments(**options),
        )  # fmt: skip
        trainer.train()
        places = {
            "vertices": torch.eye(m),
            "uniform": PreferenceSampler(m, seed=12345)(6),
            "centre": torch.full((1, m), 1 / m),
        }
        fronts = {place: trainer.measure(preferences) for place, preferences in places.items()}
        losses = {place: float((f.values * f.preferences).sum(axis=1).mean()) for place, f in fronts.items()}
        losses["base model"] = float(fronts["centre"].base_values.mean())
    return {"way": way, "objectives": m, "seed": seed, **losses}


def table(runs: list[dict[str, object]]) -> str:
    """Mean ± standard deviation over the seeds."""
    lines = ["| objectives | preferences | at the vertices | uniform | at the centre |", "|---|---|---|---|---|"]
    for m in OBJECTIVES:
        for way in WAYS:
            own = [r for r in runs if (r["objectives"], r["way"]) == (m, way)]
            cells = [f"{statistics.fmean(v):.4f} ± {statistics.stdev(v):.4f}"
                     for v in ([r[place] for r in own] for place in ("vertices", "uniform", "centre"))]  # fmt: skip
            lines.append(f"| {m} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "runs/storyteller/ten/best.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/sampling.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(1)
    rows = json_preferences(args.data, STYLES)
    runs = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
    done = {(r["way"], r["objectives"], r["seed"]) for r in runs}
    todo = [(way, m, seed) for seed in SEEDS for m in OBJECTIVES for way in WAYS]
    for key in tqdm([key for key in todo if key not in done], desc="runs"):
        runs.append(run(*key, rows))
        versions = {m.__name__: m.__version__ for m in (peft_panacea, torch, transformers, peft, trl)}
        command = " ".join(["python", *sys.argv])
        report = {"command": command, "versions": versions, "steps": STEPS, "rows": ROWS, "runs": runs}
        partial = args.output.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(partial, args.output)
    print(table(runs))


if __name__ == "__main__":
    main()

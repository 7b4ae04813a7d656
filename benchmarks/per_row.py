"""One preference per prompt against one per batch (as in the paper), at equal steps: RL on a tiny language model.

    OMP_NUM_THREADS=1 python benchmarks/per_row.py --shared ../shared --output docs/results/per_row.json

Runs `examples/recipes/rlhf.py rloo` on stories260K and the first sentences of TinyStories for two objectives, VADER
valence and brevity, with each way to draw preferences, each with and without half of them at the vertices; everything
else is equal. Resumable: what is finished is read from `--runs`. `--table` prints the table of an existing result.

Values are in standard deviations of the base model's completions above the base model's mean, both averaged over all
runs. The reference point of the hypervolume is the base model. Fixed before the first run: all settings below.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from paper.public_data import LEXICON, MODEL, STORIES, public_data
from peft_panacea.front import Front
from peft_panacea.metrics import hypervolume, inner_product

ROOT = Path(__file__).resolve().parent.parent
SEEDS = range(5)
WAYS = {
    "row": ["--preference_per", "row"],
    "batch": ["--preference_per", "batch"],
    "row, half vertices": ["--preference_per", "row", "--vertex_probability", "0.5"],
    "batch, half vertices": ["--preference_per", "batch", "--vertex_probability", "0.5"],
}
OBJECTIVES = ["valence", "brevity"]
SETTINGS = {
    "max_steps": 50,
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 512,
    "num_generations": 8,
    "max_completion_length": 64,
    "top_k": 0,
    "beta": 0.3,
    "warmup_steps": 5,
    "save_strategy": "no",
    "logging_steps": 20,
    "bf16": "false",
    "gradient_checkpointing": "false",
    "held_out": 64,
    "front_steps": 10,
}


def first_sentences(shared: Path, runs: Path) -> Path:
    """A file of the different ones of all stories, which are the prompts."""
    path = runs / "prompts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = json.loads((shared / STORIES).read_text(encoding="utf-8"))
    prompts = dict.fromkeys(re.split(r"(?<=[.!?])\s", text.strip())[0] for text in texts)
    path.write_text(json.dumps(list(prompts)))
    return path


def run(way: str, seed: int, shared: Path, prompts: Path, runs: Path) -> dict[str, Any]:
    """Train and measure once, in a process of its own."""
    output = runs / f"{way.replace(', half ', '_')}_{seed}"
    if not (output / "front.json").exists():
        flags = {
            "model_name_or_path": shared / MODEL,
            "data": prompts,
            "output_dir": output,
            "seed": seed,
            **SETTINGS,
        }
        command = [sys.executable, str(ROOT / "examples/recipes/rlhf.py"), "rloo", "--report_to", "none", *WAYS[way]]
        for name, value in flags.items():
            command += [f"--{name}", str(value)]
        command += ["--r", "8", "--preference_rank", "1"]  # the paper's
        command += ["--objectives", *OBJECTIVES, "--rewards", f"valence={shared / LEXICON}", "brevity=20"]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{finished.stderr[-2000:]}")
    front = Front.from_json(output / "front.json")
    constants = json.loads((output / "reward_normalisation.json").read_text())
    return {
        "way": way,
        "seed": seed,
        "preferences": front.preferences.tolist(),
        "measured": front.values.tolist(),
        "base_model": front.base_values.tolist(),
        "std": [constants["std"][name] for name in OBJECTIVES],
        "versions": front.details["versions"],
    }


def summarise(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every run, in common units: hypervolume, inner product, and the mean distance between the two ends."""
    base = [statistics.fmean(column) for column in zip(*(r["base_model"] for r in reports), strict=True)]
    std = [statistics.fmean(column) for column in zip(*(r["std"] for r in reports), strict=True)]
    rows = []
    for r in reports:
        values = [[(x - b) / s for x, b, s in zip(point, base, std, strict=True)] for point in r["measured"]]
        ends = {tuple(p): v for p, v in zip(r["preferences"], values, strict=True)}
        valence, brevity = ends[1.0, 0.0], ends[0.0, 1.0]
        rows.append({
            "way": r["way"], "seed": r["seed"],
            "hypervolume": hypervolume(values, [0.0] * len(base)),
            "inner product": inner_product(values, r["preferences"]),
            "reach": (valence[0] - brevity[0] + brevity[1] - valence[1]) / 2,
        })  # fmt: skip
    return rows


def table(reports: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over the seeds."""
    rows, names = summarise(reports), ("hypervolume", "inner product", "reach")
    lines = [f"| preference per | {' | '.join(names)} |", "|---|---|---|---|"]
    for way in WAYS:
        columns = [[r[name] for r in rows if r["way"] == way] for name in names]
        cells = [f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}" for values in columns]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--runs", type=Path, default=Path("runs/per_row"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/per_row.json"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table of --output")
    args = parser.parse_args()
    if not args.table:
        shared = public_data(args.shared)
        prompts = first_sentences(shared, args.runs)
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [pool.submit(run, way, seed, shared, prompts, args.runs) for seed in SEEDS for way in WAYS]
            reports = [job.result() for job in tqdm(jobs, desc="runs")]
        versions = [report.pop("versions") for report in reports]
        result = {
            "command": " ".join(["python", *sys.argv]),
            "versions": versions[0],
            "settings": SETTINGS,
            "fronts": reports,
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(json.loads(args.output.read_text())["fronts"]))


if __name__ == "__main__":
    main()

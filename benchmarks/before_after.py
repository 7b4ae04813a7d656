"""What a change of the package costs or saves: a training step and a decoded token, before and after.

    OMP_NUM_THREADS=1 python benchmarks/before_after.py 6b487ec --output docs/results/before_after.json

BEFORE is a commit, whose `src` is unpacked into a temporary folder; after is the working tree. Each runs in a process
of its own, and the two take turns within one run. Measured on a four-layer Llama with random weights in float32, under
one preference: forward and backward of 8 × 64 tokens; and one more token for 1 and for 8 rows with a cache of 64.
Printed are the medians of after / before in the same turn, with quartiles; LoRA of the same rank stands beside them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTHS, TURNS = (256, 1024), 40
RATIOS = {"after / before": "before", "after / LoRA": "LoRA"}
TASKS = ("training step", "a token for 1 row", "a token for 8 rows")


def tasks(width: int, adapter: str) -> dict[str, Callable[[], object]]:
    """The three tasks on a model of this width."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    from peft_panacea import PanaceaConfig

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 64}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=1000, num_hidden_layers=4, **sizes))
    panacea = PanaceaConfig(objectives=2, r=8, task_type="CAUSAL_LM")
    lora = LoraConfig(r=10, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, panacea if adapter == "panacea" else lora)
    tokens = torch.randint(0, 1000, (8, 64))

    def train() -> None:
        model.train()
        model(tokens, labels=tokens).loss.backward()

    def decode(rows: int) -> Callable[[], object]:
        model.eval()
        with torch.no_grad():
            filled = model(tokens[:rows], past_key_values=DynamicCache(config=base.config)).past_key_values

        @torch.no_grad()
        def one_token() -> None:
            model.eval()
            model(tokens[:rows, :1], past_key_values=filled)
            filled.crop(-1)

        return one_token

    return dict(zip(TASKS, (train, decode(1), decode(8)), strict=True))


def work() -> None:
    """Times what the other process asks for: width, adapter and task, one in each line."""
    known: dict[tuple[int, str], dict[str, Callable[[], object]]] = {}
    for line in sys.stdin:
        width, adapter, task = json.loads(line)
        if (width, adapter) not in known:
            known[width, adapter] = tasks(width, adapter)
            for run in known[width, adapter].values():
                run()
        repeats = 1 if task == "training step" else 10
        start = time.perf_counter()
        for _ in range(repeats):
            known[width, adapter][task]()
        print(json.dumps((time.perf_counter() - start) / repeats), flush=True)


def table(report: dict) -> str:
    """Medians and quartiles."""
    lines = [
        "| width | | before | after | LoRA | after / before | after / LoRA |",
        "|---:|---|---:|---:|---:|---|---|",
    ]
    for row in report["rows"]:
        times = (f"{row[f'{side}, ms']:.1f} ms" for side in ("before", "after", "LoRA"))
        ratios = (f"{row[name][1]:.3f} ({row[name][0]:.3f} to {row[name][2]:.3f})" for name in RATIOS)
        lines.append(f"| {row['width']} | {row['task']} | {' | '.join([*times, *ratios])} |")
    return "\n".join(lines)


class Side:
    """A process that imports the package from `source`."""

    def __init__(self, source: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, __file__, "--work"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, *what: object) -> float:
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    import peft
    import torch
    import transformers

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", args.before, "src"], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        sides = {"before": Side(Path(folder) / "src"), "after": Side(ROOT / "src")}
        for width in WIDTHS:
            for task in TASKS:
                turns = []
                for _ in range(TURNS + 1):
                    turn = {name: side.seconds(width, "panacea", task) for name, side in sides.items()}
                    turns.append({**turn, "LoRA": sides["after"].seconds(width, "lora", task)})
                turns = turns[1:]  # the first one makes the models
                row: dict[str, object] = {"width": width, "task": task}
                row |= {f"{name}, ms": 1e3 * statistics.median(t[name] for t in turns) for name in turns[0]}
                for name, other in RATIOS.items():
                    row[name] = statistics.quantiles((t["after"] / t[other] for t in turns), n=4)
                rows.append(row)
        for side in sides.values():
            side.process.stdin.close()
            side.process.wait()
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    report = {"command": " ".join(["python", *sys.argv]), "turns": TURNS, "versions": versions, "rows": rows}
    print(table(report))
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main()

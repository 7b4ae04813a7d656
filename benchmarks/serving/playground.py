"""Asks the playground as its visitors do, and compares its answers with the model in process.

    make playground

or, with an adapter of one's own:

    OMP_NUM_THREADS=1 python benchmarks/serving/playground.py --adapter FOLDER --prompts FILE --model NAME

Two visitors ask at the same time, greedy, each question at a preference of its own; then many come and go with short
questions, and the memory of the server is read. Writes `docs/results/playground.json` and the tables of
`docs/playground.md` from it.
"""

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio
import torch
import transformers
from gradio_client import Client
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

import peft_panacea
from peft_panacea.completions import sample
from peft_panacea.data import chat_prompt, is_chat, json_prompts
from peft_panacea.simplex import PreferenceSampler

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "docs/results/playground.json", ROOT / "docs/playground.md"
STORYTELLER = ROOT / "examples/storyteller"
TOKENS, PROMPTS, SEED = 24, 12, 0
SHORT, STAY = 4, 100
"""Tokens of a short answer, and after how many of them a visitor leaves."""


@contextmanager
def playing(adapter: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of `peft-panacea play`, on this machine alone, and its process, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "peft_panacea", "play", adapter, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = next((line for line in process.stdout if "http://" in line), None)
            if said is None:
                raise SystemExit("The playground did not start; what it said is above.")
            yield re.search(r"http://\S+?/", said).group(), process
        finally:
            process.terminate()


def resident(process: subprocess.Popen[str]) -> float:
    """The memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


def exactness(url: str, model: Any, tokenizer: Any, prompts: list[Any], requests: int) -> dict[str, Any]:
    """All questions of two visitors at once, against `sample` in process."""
    m = len(peft_panacea.get_objectives(model))
    asked = [
        (prompts[i % len(prompts)], preference)
        for i, preference in enumerate(PreferenceSampler(m, seed=SEED)(requests).tolist())
    ]
    visitors = [Client(url, verbose=False) for _ in range(2)]
    start = time.perf_counter()
    jobs = [
        visitors[i % 2].submit(prompt, *preference, 0, TOKENS, 0, api_name="/answer")
        for i, (prompt, preference) in enumerate(asked)
    ]
    answers = [job.result() for job in jobs]
    seconds = time.perf_counter() - start
    same = 0
    for answer, (prompt, preference) in zip(answers, asked, strict=True):
        as_asked = chat_prompt(prompt) if is_chat(prompt, tokenizer) else prompt
        own = sample(model, tokenizer, [as_asked], preference=preference, do_sample=False, max_new_tokens=TOKENS)
        same += answer == own.texts[0].rstrip("\ufffd")
    different = len(set(answers))
    return {"same": same, "of": requests, "different": different, "seconds": round(seconds, 1)}


def soak(url: str, process: subprocess.Popen[str], prompt: str, m: int, requests: int) -> list[list[float]]:
    """Short questions of one visitor after the other: how many were asked, and the memory then, five times."""
    preferences = PreferenceSampler(m, seed=SEED + 1)(requests).tolist()
    found, visitor = [], Client(url, verbose=False)
    for i, preference in enumerate(preferences):
        if i % STAY == 0:
            visitor.close()
            visitor = Client(url, verbose=False)
        visitor.predict(prompt, *preference, 1.0, SHORT, i, api_name="/answer")
        if (i + 1) % (requests // 5) == 0:
            found.append([i + 1, round(resident(process), 1)])
            print(json.dumps(found[-1]), flush=True)
    return found


def tables(runs: list[dict[str, Any]]) -> dict[str, str]:
    exact = ["| | answers as in process | different answers | seconds |", "|---|---:|---:|---:|"]
    memory = []
    for run in runs:
        row = run["exactness"]
        exact.append(f"| {run['model']} | {row['same']} of {row['of']} | {row['different']} | {row['seconds']:.0f} |")
        if "soak" in run:
            asked, found = zip(*run["soak"], strict=True)
            memory += [f"| answers so far | {' | '.join(str(n) for n in asked)} |", "|---|" + "---:|" * len(asked)]
            memory.append(f"| memory of the server, {run['model']} | {' | '.join(f'{x:.0f} MiB' for x in found)} |")
    return {"playground exactness": "\n".join(exact), "playground memory": "\n".join(memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="examples/storyteller/adapter")
    parser.add_argument("--prompts", type=Path, default=STORYTELLER / "held_out.json")
    parser.add_argument("--model", default="storyteller", help="its name in the tables")
    parser.add_argument("--requests", type=int, default=200, help="of two visitors at once")
    parser.add_argument("--soak", type=int, default=2000, help="short ones afterwards, 0 for none")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    prompts = json_prompts(args.prompts)[:PROMPTS]
    model = AutoPeftModelForCausalLM.from_pretrained(args.adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    run: dict[str, Any] = {"model": args.model}
    with playing(args.adapter) as (url, process):
        run["exactness"] = exactness(url, model, tokenizer, prompts, args.requests)
        print(json.dumps(run["exactness"]), flush=True)
        if args.soak:
            run["soak"] = soak(url, process, prompts[0], len(peft_panacea.get_objectives(model)), args.soak)
    run["versions"] = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers, gradio)}
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
    runs = [*(one for one in runs if one["model"] != args.model), run]
    RESULT.write_text(json.dumps({"command": "make playground", "runs": runs}) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables(runs).items():
        new = f"<!-- {name} -->\n{table}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

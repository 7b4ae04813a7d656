"""Steers vLLM's server through this package's resolver, and compares it with the model in process.

    make serving

or, with an environment that has vLLM, PEFT and this package, and any adapter on a model that vLLM serves:

    OMP_NUM_THREADS=1 python benchmarks/serving/vllm_server.py --python PATH --adapter FOLDER --prompts FILE

Greedy, float32 on both sides, on the CPU, the prompts as token ids. Writes `docs/results/serving.json` and the table
of `docs/serving/vllm.md` from it. It is not called vllm.py, because Python would then take it for vLLM.
"""

import argparse
import os
import random
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from comparing import PROMPTS, REQUESTS, ROOT, SEED, STORYTELLER, TOKENS, Answer, compare, post, running, save
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
from wide_heads import write_wide

import peft_panacea
from peft_panacea.completions import tokenize
from peft_panacea.data import json_prompts
from peft_panacea.serving.resolver import STEPS
from peft_panacea.simplex import PreferenceSampler
from peft_panacea.steps import in_steps

PAGE = ROOT / "docs/serving/vllm.md"
PREFERENCES = [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.3, 0.7], [0.17, 0.83], [0.0, 1.0]]
SOAK, SOAK_TOKENS, SOAK_AT_ONCE, SLOTS = 2000, 4, 16, 8
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def command(python: Path, model: str, rank: int, port: int) -> list[str]:
    """Starts the server on the base model."""
    lora = ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(SLOTS)]
    size = ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16", "--enforce-eager"]
    size += ["--num-gpu-blocks-override", "64"]  # a small cache of keys and values, all of which is soon in use
    where = ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
    return [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model, *lora, *size, *where]


def ask(url: str, ids: list[int], preference: list[float], tokens: int = TOKENS) -> Answer:
    """One completion at this preference."""
    name = f"adapter@{','.join(f'{entry:.2f}' for entry in preference)}"
    body = {"model": name, "prompt": ids, "max_tokens": tokens, "temperature": 0.0, "logprobs": 1}
    found = post(f"{url}/v1/completions", {**body, "return_token_ids": True})["choices"][0]
    return Answer(found["token_ids"], found["logprobs"]["token_logprobs"])


def timed(url: str, ids: list[int], preference: list[float]) -> tuple[Answer, float]:
    start = time.perf_counter()
    answer = ask(url, ids, preference)
    return answer, time.perf_counter() - start


def memory(process: int) -> tuple[float, float]:
    """Of a process, and with all that it has started, MB."""
    started = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    status = Path(f"/proc/{process}/status").read_text()
    own = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return own, own + sum(memory(int(child))[1] for children in started for child in children)


def soak(url: str, process: int, ids: list[list[int]], requests: int) -> list[tuple[float, float]]:
    """The memory before, half way, and after many requests at random preferences."""
    draws = random.Random(SEED)
    rows = [(draws.choice(ids), draws.randrange(STEPS + 1)) for _ in range(requests)]

    def one(row: tuple[list[int], int]) -> None:
        ask(url, row[0], [row[1] / STEPS, 1 - row[1] / STEPS], SOAK_TOKENS)

    found = [memory(process)]
    with ThreadPoolExecutor(SOAK_AT_ONCE) as pool:
        for half in (rows[: requests // 2], rows[requests // 2 :]):
            list(pool.map(one, half))
            found.append(memory(process))
    return found


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    python, adapter, soaked = args.python.absolute(), args.adapter, args.soak
    model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    config = model.peft_config["default"]
    base = config.base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = [tokenize(tokenizer, prompt) for prompt in json_prompts(args.prompts)[:PROMPTS]]
    grid = [(one, preference) for preference in PREFERENCES for one in ids]
    drawn = PreferenceSampler(2, seed=SEED)(args.requests).tolist()
    drawn = [[step / STEPS for step in in_steps(preference, STEPS)] for preference in drawn]
    many = [(ids[i % len(ids)], preference) for i, preference in enumerate(drawn)]
    rank = next(r for r in (8, 16, 32, 64, 128, 256) if r >= config.r + 2 * config.preference_rank)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served, steered = Path(base).absolute(), Path(adapter).absolute()
        if args.wide_heads:
            served, steered = write_wide(adapter, folder)
        own = {"PEFT_PANACEA_ADAPTERS": f"adapter={steered}", "PEFT_PANACEA_CACHE": str(folder / "exports")}
        start = lambda port: command(python, str(served), rank, port)  # noqa: E731
        with running(start, folder, {**os.environ, **CPU, **own}) as (url, process):
            refused = post(f"{url}/v1/completions", {"model": "adapter@0.3,0.3", "prompt": ids[0]})["error"]
            one_by_one = [timed(url, one, preference) for one, preference in grid]
            with ThreadPoolExecutor(args.requests) as pool:
                at_once = list(pool.map(lambda row: ask(url, *row), many))
            used = soak(url, process, ids, soaked)
            exports = len(list((folder / "exports/adapters").iterdir()))
    seconds = [time for _, time in one_by_one]
    first, later = seconds[::PROMPTS], [time for i, time in enumerate(seconds) if i % PROMPTS]
    times = f"{statistics.median(first) * 1e3:.0f} ms and {statistics.median(later) * 1e3:.0f} ms"
    processes = [", ".join(f"{one:.0f}" for one in some) for some in zip(*used, strict=True)]
    said = f"{processes[0]} MB, {soaked} requests, {exports} exports; with the engine {processes[1]} MB"
    rows = [
        compare(model, "one after the other", [answer for answer, _ in one_by_one], grid),
        compare(model, "at random preferences, all at once", at_once, many),
        {"what": "a refused preference", "found": f"{refused['code']}, “{refused['message']}”"},
        {"what": "first request at a preference, and later ones (median)", "found": times},
        {"what": "memory before, half way and after more requests", "found": said},
    ]
    print(rows[2:], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the environment with vLLM")
    parser.add_argument("--adapter", default=str(STORYTELLER / "adapter"))
    parser.add_argument("--prompts", type=Path, default=STORYTELLER / "held_out.json")
    parser.add_argument("--model", default="storyteller", help="its name in the table")
    parser.add_argument("--wide-heads", action="store_true", help="serve an equal model with heads of twice the width")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="at random preferences")
    parser.add_argument("--soak", type=int, default=SOAK, help="requests over which the memory is looked at")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = measure(args)
    versions = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers)}
    asked = "from importlib.metadata import version; print(version('vllm-cpu'), version('transformers'))"
    found = subprocess.run([args.python, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    versions |= {"vllm-cpu": found[0], "transformers of the server": found[1]}
    save({"server": "vLLM", "model": args.model, "rows": rows, "versions": versions}, PAGE)


if __name__ == "__main__":
    main()

r"""Compares the ways to serve an adapter that need nothing but Python, transformers' server among them, with the model
in process.

    OMP_NUM_THREADS=1 python benchmarks/serving/in_python.py
    OMP_NUM_THREADS=1 python benchmarks/serving/in_python.py --model SmolLM2-135M-Instruct \
        --adapter runs/paper/chat/rl2/Panacea_0 --prompts runs/chat/prompts.jsonl --requests 48 --soak 200

Greedy, float32. Writes `docs/results/serving.json` and the table of `docs/serving/transformers.md`.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from comparing import (
    PROMPTS,
    REQUESTS,
    ROOT,
    SEED,
    STORYTELLER,
    TOKENS,
    Answer,
    compare,
    in_process,
    post,
    resident,
    row,
    running,
    save,
)
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

import peft_panacea
from peft_panacea.completions import tokenize
from peft_panacea.convert import export_lora, export_lora_basis
from peft_panacea.data import json_prompts
from peft_panacea.simplex import PreferenceSampler

PAGE = ROOT / "docs/serving/transformers.md"
ON = [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.3, 0.7], [0.1, 0.9], [0.0, 1.0]]
AT_ONCE, SOAK = 8, 2000


def exported(model: Any, base: Any, asked: list[Any], folder: Path) -> list[Answer]:
    """By a plain LoRA for each preference."""
    answers = []
    for i, preference in enumerate(ON):
        export_lora(model, preference, folder / str(i))
        lora = PeftModel.from_pretrained(base, folder / str(i)).eval()
        answers += [in_process(lora, ids) for ids, other in asked if other == preference]
        lora.unload()
    return answers


def combined(model: Any, base: Any, asked: list[Any], folder: Path) -> list[Answer]:
    """By the basis, which PEFT adds up for each preference."""
    names = export_lora_basis(model, folder)
    lora = PeftModel.from_pretrained(base, folder / names[0], adapter_name=names[0]).eval()
    for name in names[1:]:
        lora.load_adapter(folder / name, adapter_name=name)
    answers = []
    for i, preference in enumerate(ON):
        weights = [1.0] * (names[0] == "shared") + preference
        lora.add_weighted_adapter(names, weights, f"at {i}", combination_type="cat")
        lora.set_adapter(f"at {i}")
        answers += [in_process(lora, ids) for ids, other in asked if other == preference]
    lora.unload()
    return answers


def batched(model: Any, asked: list[Any], threads: int) -> list[Answer]:
    """By transformers' continuous batching, to which threads add requests."""
    greedy = GenerationConfig(max_new_tokens=TOKENS, do_sample=False, eos_token_id=model.config.eos_token_id)
    paged = ContinuousBatchingConfig(page_size=32, num_blocks=512, max_batch_tokens=512, return_logprobs=True)
    found: dict[int, Any] = {}
    with model.get_base_model().continuous_batching_context_manager(
        greedy, continuous_batching_config=paged
    ) as manager:

        def add(i: int) -> None:
            ids, preference = asked[i]
            with model.preference(preference):
                manager.add_request(ids, request_id=str(i))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(add, range(len(asked))))
        while len(found) < len(asked):
            output = manager.get_result(timeout=60)
            found[int(output.request_id)] = output
    return [Answer(found[i].generated_tokens, found[i].logprobs) for i in range(len(asked))]


class Server:
    """Asks a running server; `expected` is what the model in process says."""

    def __init__(self, url: str, adapter: str, tokenizer: Any, texts: dict[tuple[int, ...], Any]) -> None:
        self.url, self.adapter, self.tokenizer, self.texts = url, adapter, tokenizer, texts

    def ask(self, ids: list[int], preference: Any, tokens: int = TOKENS) -> Any:
        prompt, body = self.texts[tuple(ids)], {"model": self.adapter, "max_tokens": tokens, "temperature": 0}
        if isinstance(prompt, str):
            answer = post(f"{self.url}/v1/completions", {**body, "prompt": prompt, "preference": preference})
            return answer["choices"][0]["text"] if "choices" in answer else answer["detail"]
        answer = post(f"{self.url}/v1/chat/completions", {**body, "messages": prompt, "preference": preference})
        return answer["choices"][0]["message"]["content"] if "choices" in answer else answer["detail"]

    def compare(self, what: str, model: Any, asked: list[Any], at_once: int) -> dict[str, Any]:
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(lambda one: self.ask(*one), asked))
        expected = [self.tokenizer.decode(in_process(model, *one).tokens, skip_special_tokens=True) for one in asked]
        return row(what, sum(one == other for one, other in zip(answers, expected, strict=True)), len(asked), None)


def measure(adapter: str, prompts: list[Any], requests: int, soak: int) -> list[dict[str, Any]]:
    model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    where = model.peft_config["default"].base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(where)
    base = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    texts = {tuple(tokenize(tokenizer, prompt)): prompt for prompt in prompts[:PROMPTS]}
    ids = [list(one) for one in texts]
    grid = [(one, preference) for preference in ON for one in ids]
    drawn = PreferenceSampler(2, seed=SEED)(requests).tolist()
    many = [(ids[i % len(ids)], preference) for i, preference in enumerate(drawn)]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows.append(compare(model, "an exported LoRA, in PEFT", exported(model, base, grid, folder / "one"), grid))
        what = '`add_weighted_adapter(…, "cat")` of the basis, in PEFT'
        rows.append(compare(model, what, combined(model, base, grid, folder / "basis"), grid))
        rows.append(compare(model, "continuous batching", batched(model, grid, 1), grid))
        what = f"the same, at random preferences, added by {AT_ONCE} threads"
        rows.append(compare(model, what, batched(model, many, AT_ONCE), many))
        for flags in ([], ["--continuous_batching"]):
            command = [sys.executable, "-m", "peft_panacea", "serve", adapter, "--dtype", "float32", *flags]
            with running(lambda port: [*command, "--port", str(port)], folder, cwd=Path.cwd()) as (url, pid):  # noqa: B023
                server, kind = Server(url, adapter, tokenizer, texts), " ".join(["serve", *flags])
                rows.append(server.compare(f"`{kind}`, one after the other", model, grid, 1))
                what = f"`{kind}`, at random preferences, {AT_ONCE} at once"
                rows.append(server.compare(what, model, many, AT_ONCE))
                said = server.ask(ids[0], [0.3, 0.3])
                rows.append({"what": f"`{kind}`, asked for 0.3 and 0.3", "found": said})
                rows.append(soaked(server, kind, ids, pid, soak))
    return rows


def soaked(server: Server, kind: str, ids: list[Any], pid: int, soak: int) -> dict[str, Any]:
    """The memory of the server's process after a tenth of so many short requests, and after all."""
    drawn, sizes = PreferenceSampler(2, seed=SEED + 1)(soak).tolist(), []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for part in (drawn[: soak // 10], drawn[soak // 10 :]):
            list(pool.map(lambda p: server.ask(ids[hash(tuple(p)) % len(ids)], p, 4), part))
            sizes.append(resident(pid))
    print(kind, sizes, flush=True)
    found = f"{sizes[0]:.0f} MiB after {soak // 10} more requests, {sizes[1]:.0f} after {soak}"
    return {"what": f"`{kind}`, memory", "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default=str(STORYTELLER / "adapter"))
    parser.add_argument("--prompts", type=Path, default=STORYTELLER / "held_out.json")
    parser.add_argument("--model", default="storyteller", help="its name in the table")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="at random preferences")
    parser.add_argument("--soak", type=int, default=SOAK, help="requests over which the memory is looked at")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = measure(args.adapter, json_prompts(args.prompts), args.requests, args.soak)
    versions = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers, peft)}
    save({"server": "transformers", "model": args.model, "rows": rows, "versions": versions}, PAGE)


if __name__ == "__main__":
    main()

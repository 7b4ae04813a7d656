"""Steers llama.cpp's server by the files of `export_gguf`, and compares it with the model in process.

    make serving

or, with a `llama-server` of one's own and an adapter on any model of the Llama architecture:

    OMP_NUM_THREADS=1 python benchmarks/serving/llama_cpp.py --server PATH --adapter FOLDER --prompts FILE

Greedy, float32 on both sides, the prompts as token ids. Writes `docs/results/serving.json` and the table of
`docs/serving/llama-cpp.md` from it.
"""

import argparse
import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import peft_panacea
from peft_panacea.completions import tokenize
from peft_panacea.convert import export_gguf
from peft_panacea.convert.gguf import rotated
from peft_panacea.data import json_prompts
from peft_panacea.simplex import PreferenceSampler

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "docs/results/serving.json", ROOT / "docs/serving/llama-cpp.md"
STORYTELLER = ROOT / "examples/storyteller"
TOKENS, PROMPTS, REQUESTS, SLOTS, SEED = 24, 12, 200, 4, 0
PREFERENCES = [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.3, 0.7], [0.0, 1.0], [1.4, -0.4]]
EXACT = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"]
"""Keys and values in float32, as in process; llama.cpp's own default is float16."""


def write_base(model: Any, tokenizer: Any, path: Path) -> None:
    """The base model as a GGUF, float32, for requests of token ids: the tokenizer in it is only a list of tokens."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = [tokenizer.convert_ids_to_tokens(i) or f"<unused{i}>" for i in range(config.vocab_size)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = rotated(name.removesuffix(".weight"), tensor, config)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def serving(server: Path, folder: Path, names: list[str], *flags: str) -> Iterator[str]:
    """The server's address, on this machine alone, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(server), "-m", "base.gguf", "--lora", ",".join(f"{name}.gguf" for name in names)]
    command += [
        "-t",
        "1",
        "-np",
        str(SLOTS),
        "-c",
        str(SLOTS * 256),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *flags,
    ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise SystemExit((folder / "server.log").read_text()[-2000:]) from None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def ask(url: str, ids: list[int], weights: list[float], **fields: Any) -> dict[str, Any]:
    """One completion under these weights."""
    lora = [{"id": i, "scale": weight} for i, weight in enumerate(weights)]
    body = {"prompt": ids, "n_predict": TOKENS, "temperature": 0.0, "return_tokens": True, "n_probs": 1, **fields}
    request = urllib.request.Request(
        f"{url}/completion", json.dumps({**body, "lora": lora}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@torch.no_grad()
def in_process(model: Any, ids: list[int], preference: list[float]) -> tuple[list[int], list[float]]:
    """The likeliest tokens, up to the end, and their log-probabilities."""
    model.set_preference(preference, extrapolate=True)
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=TOKENS,
        do_sample=False, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    tokens = out.sequences[0, len(ids) :].tolist()
    end = model.config.eos_token_id
    tokens = tokens[: tokens.index(end)] if end in tokens else tokens
    return tokens, [scores.log_softmax(-1).max().item() for scores in out.scores[: len(tokens)]]


def compare(model: Any, answers: list[Any], asked: list[Any]) -> tuple[int, float]:
    """How many answers are the ones in process, token by token, and the largest difference of a log-probability."""
    same, largest = 0, 0.0
    for answer, (ids, preference) in zip(answers, asked, strict=True):
        tokens, log_p = in_process(model, ids, preference)
        if answer["tokens"][: len(tokens)] == tokens and len(answer["tokens"]) <= len(tokens) + 1:
            same += 1
            found = answer["completion_probabilities"][: len(tokens)]
            differences = [abs(one["logprob"] - own) for one, own in zip(found, log_p, strict=True)]
            largest = max([largest, *differences])
    return same, largest


def measure(server: Path, adapter: str, prompts: list[Any]) -> list[dict[str, Any]]:
    model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
    ids = [tokenize(tokenizer, prompt) for prompt in prompts[:PROMPTS]]
    grid = [(one, preference) for preference in PREFERENCES for one in ids]
    drawn = PreferenceSampler(2, seed=SEED)(REQUESTS).tolist()
    many = [(ids[i % len(ids)], preference) for i, preference in enumerate(drawn)]
    found = []

    def report(what: str, answers: list[Any], asked: list[Any]) -> None:
        same, largest = compare(model, answers, asked)
        found.append({"what": what, "same": same, "of": len(asked), "largest difference": largest})
        print(json.dumps(found[-1]), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = export_gguf(model, folder)
        shared = [1.0] * (names[0] == "shared")
        bare = AutoModelForCausalLM.from_pretrained(model.get_base_model().config._name_or_path, dtype=torch.float32)
        write_base(bare, tokenizer, folder / "base.gguf")
        off = {"cache_prompt": False}
        with serving(server, folder, names, "--cache-ram", "0", *EXACT) as url:
            one_by_one = [ask(url, one, [*shared, *preference], **off) for one, preference in grid]
            with ThreadPoolExecutor(2 * SLOTS) as pool:
                at_once = list(pool.map(lambda row: ask(url, row[0], [*shared, *row[1]], **off), many))
        with serving(server, folder, names, "--cache-ram", "0") as url:
            by_default = [ask(url, one, [*shared, *preference], **off) for one, preference in grid]
        with serving(server, folder, names, *EXACT) as url:
            cached = [ask(url, one, [*shared, *preference]) for one, preference in grid]
    report("one after the other, float32 cache", one_by_one, grid)
    report(f"{REQUESTS} requests at random preferences, {2 * SLOTS} at once", at_once, many)
    report("one after the other, llama.cpp's float16 cache", by_default, grid)
    report("**with the prompt cache left on**", cached, grid)
    return found


def table(runs: list[dict[str, Any]]) -> str:
    heads = [run["model"] for run in runs]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for rows in zip(*(run["rows"] for run in runs), strict=True):
        cells = [f"{row['same']} of {row['of']}, {row['largest difference']:.0e}" for row in rows]
        lines.append(f"| {rows[0]['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True, help="llama-server")
    parser.add_argument("--adapter", default=str(STORYTELLER / "adapter"))
    parser.add_argument("--prompts", type=Path, default=STORYTELLER / "held_out.json")
    parser.add_argument("--model", default="storyteller", help="its name in the table")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = measure(args.server.absolute(), args.adapter, json_prompts(args.prompts))
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
    version = subprocess.run([args.server, "--version"], capture_output=True, text=True, check=False)
    said = re.search(r"version: (.*)", version.stdout + version.stderr)
    versions = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers)}
    versions["llama.cpp"] = said.group(1) if said else "unknown"
    runs = [run for run in runs if run["model"] != args.model]
    runs.append({"model": args.model, "rows": rows, "versions": versions})
    RESULT.write_text(json.dumps({"command": "make serving", "runs": runs}) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    new = f"<!-- serving -->\n{table(runs)}\n<!-- end -->"
    PAGE.write_text(
        re.sub(r"<!-- serving -->\n.*?<!-- end -->", lambda _: new, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()

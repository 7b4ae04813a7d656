"""Steers llama.cpp's server by the files of `export_gguf`, and compares it with the model in process.

    make serving

or, with a `llama-server` of one's own and an adapter on any model of the Llama architecture:

    OMP_NUM_THREADS=1 python benchmarks/serving/llama_cpp.py --server PATH --adapter FOLDER --prompts FILE

Greedy, float32 on both sides, the prompts as token ids. Writes `docs/results/serving.json` and the table of
`docs/serving/llama-cpp.md` from it.
"""

import argparse
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gguf
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
    post,
    resident,
    running,
    save,
)
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import peft_panacea
from peft_panacea.completions import tokenize
from peft_panacea.convert import export_gguf
from peft_panacea.convert.gguf import rotated
from peft_panacea.data import json_prompts
from peft_panacea.simplex import PreferenceSampler

PAGE = ROOT / "docs/serving/llama-cpp.md"
SLOTS, SOAK = 4, 2000
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


def command(server: Path, names: list[str], port: int, *flags: str) -> list[str]:
    """Starts the server with the adapters of these names."""
    adapters = ",".join(f"{name}.gguf" for name in names)
    where = ["--host", "127.0.0.1", "--port", str(port)]
    size = ["-t", "1", "-np", str(SLOTS), "-c", str(SLOTS * 256)]
    return [str(server), "-m", "base.gguf", "--lora", adapters, *size, *where, *flags]


def ask(url: str, ids: list[int], weights: list[float], **fields: Any) -> Answer:
    """One completion under these weights."""
    lora = [{"id": i, "scale": weight} for i, weight in enumerate(weights)]
    body = {"prompt": ids, "n_predict": TOKENS, "temperature": 0.0, "return_tokens": True, "n_probs": 1, **fields}
    found = post(f"{url}/completion", {**body, "lora": lora})
    return Answer(found["tokens"], [one["logprob"] for one in found["completion_probabilities"]])


def measure(server: Path, adapter: str, prompts: list[Any]) -> list[dict[str, Any]]:
    model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
    ids = [tokenize(tokenizer, prompt) for prompt in prompts[:PROMPTS]]
    grid = [(one, preference) for preference in PREFERENCES for one in ids]
    drawn = PreferenceSampler(2, seed=SEED)(REQUESTS).tolist()
    many = [(ids[i % len(ids)], preference) for i, preference in enumerate(drawn)]

    def serving(*flags: str) -> AbstractContextManager[tuple[str, int]]:
        return running(lambda port: command(server, names, port, *flags), folder)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = export_gguf(model, folder)
        shared = [1.0] * (names[0] == "shared")
        bare = AutoModelForCausalLM.from_pretrained(model.get_base_model().config._name_or_path, dtype=torch.float32)
        write_base(bare, tokenizer, folder / "base.gguf")
        off = {"cache_prompt": False}
        with serving("--cache-ram", "0", *EXACT) as (url, process):
            one_by_one = [ask(url, one, [*shared, *preference], **off) for one, preference in grid]
            with ThreadPoolExecutor(2 * SLOTS) as pool:
                at_once = list(pool.map(lambda row: ask(url, row[0], [*shared, *row[1]], **off), many))
                soaked = [resident(process)]
                for _ in range(2):
                    half = (many * (SOAK // REQUESTS + 1))[: SOAK // 2]
                    list(pool.map(lambda row: ask(url, row[0], [*shared, *row[1]], **off, n_predict=4), half))
                    soaked.append(resident(process))
        with serving("--cache-ram", "0") as (url, _):
            by_default = [ask(url, one, [*shared, *preference], **off) for one, preference in grid]
        with serving(*EXACT) as (url, _):
            cached = [ask(url, one, [*shared, *preference]) for one, preference in grid]
    return [
        compare(model, "one after the other, float32 cache", one_by_one, grid),
        compare(model, f"{REQUESTS} requests at random preferences, {2 * SLOTS} at once", at_once, many),
        compare(model, "one after the other, llama.cpp's float16 cache", by_default, grid),
        compare(model, "**with the prompt cache left on**", cached, grid),
        {
            "what": f"memory before, half way and after {SOAK:,} more requests",
            "found": f"{', '.join(f'{size:.0f}' for size in soaked)} MiB",
        },
    ]


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
    version = subprocess.run([args.server, "--version"], capture_output=True, text=True, check=False)
    said = re.search(r"version: (.*)", version.stdout + version.stderr)
    versions = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers)}
    versions["llama.cpp"] = said.group(1) if said else "unknown"
    save({"server": "llama.cpp", "model": args.model, "rows": rows, "versions": versions}, PAGE)


if __name__ == "__main__":
    main()

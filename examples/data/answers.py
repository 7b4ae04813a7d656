"""Make training data for the recipes from a model's own answers, judged by reward functions.

    python examples/data/answers.py --config examples/storyteller/answers.yaml

Writes `answers.jsonl`, every prompt with its answers and their scores, for DPO, and `best.jsonl`, for every prompt and
objective the answer that it scores highest, for SFT. A conversation is answered through the model's chat template, and
so is a text if there is one; their rows are conversations. The same command goes on where it was interrupted.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Sample a model's answers and judge them by rewards.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_common_flags(parser)
    parser.add_argument("--objectives", nargs="+", required=True, help="names, in the order of the rewards")
    parser.add_argument("--rewards", nargs="+", required=True, help="see `peft_panacea.rewards.load_reward`")
    parser.add_argument("--system_prompt", metavar="TEXT", help="in front of every conversation that has none")
    parser.add_argument("--plain", action="store_true", help="continue texts as they are, despite a chat template")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/answers"), help="folder")
    parser.add_argument("--answers", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    parser.add_argument("--greedy", action="store_true", help="one answer, of the likeliest tokens")
    args = parser.parse_args(with_config(sys.argv[1:]))
    if len(args.rewards) != len(args.objectives):
        parser.error(f"`--rewards` must be one for each of {args.objectives}, but got {args.rewards}.")
    if args.greedy:
        args.answers = 1  # the others would be the same
    return args


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Those of every script that samples answers."""
    parser.add_argument("--config", type=Path, help="YAML file of flags; those of the command have precedence")
    parser.add_argument("--model_name_or_path", required=True, help="causal language model, on the Hub or in a folder")
    parser.add_argument("--data", type=Path, required=True, help="JSON file of prompts, texts or conversations")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "auto"], default="float32")
    parser.add_argument("--batch_size", type=int, default=64, help="answers sampled at once")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")


def with_config(words: list[str]) -> list[str]:
    """The words of a command, behind those of the YAML file that it names."""
    import yaml

    if "--config" not in words[:-1]:
        return words
    flags = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text(encoding="utf-8"))
    given = {name: value if isinstance(value, list) else [value] for name, value in flags.items()}
    return [word for name, values in given.items() for word in (f"--{name}", *map(str, values))] + words


def begin(path: Path, settings: dict[str, str], prompts: list[Any]) -> list[dict[str, Any]]:
    """The rows that an interrupted run of the same command has left in the file; without one, it begins anew."""
    first = json.dumps(settings)
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []  # a torn last line has no end
    rows = [json.loads(line) for line in whole[1:]] if whole[:1] == [first] else []
    if [row["prompt"] for row in rows] != prompts[: len(rows)]:
        rows = []
    path.write_text(f"{first}\n{lines(rows)}", encoding="utf-8")
    return rows


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def best(rows: list[dict[str, Any]], objectives: list[str]) -> list[dict[str, Any]]:
    """For every prompt and objective the answer with the highest score, the first of equal ones."""
    found = []
    for row in rows:
        for name in objectives:
            scores = [of_one[name] for of_one in row["scores"]]
            winner = row["responses"][scores.index(max(scores))]
            found.append({"prompt": row["prompt"], "completion": winner, "objective": name})
    return found


def main() -> None:
    args = parse_arguments()
    # Imported here, so that what is wrong with the flags and `--help` need not wait for it.
    import torch
    from tqdm.auto import trange
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from peft_panacea.completions import sample
    from peft_panacea.data import chat_prompt, is_chat, json_prompts
    from peft_panacea.rewards import load_reward

    try:
        prompts = json_prompts(args.data)
        tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if is_chat(prompts[0], tokenizer, plain=args.plain, system_prompt=args.system_prompt):
            if isinstance(prompts[0], str):
                print(
                    "The model has a chat template, and each text is asked as a user's message (--plain: it is not)."
                )
            prompts = [chat_prompt(prompt, args.system_prompt) for prompt in prompts]
        rewards = [load_reward(spec, tokenizer) for spec in args.rewards]
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=args.dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    args.output_dir.mkdir(parents=True, exist_ok=True)
    per_batch = max(1, args.batch_size // args.answers)
    decoding = {"do_sample": False} if args.greedy else {"temperature": args.temperature}
    print(f"{len(prompts)} prompts, {args.answers} answers each, of up to {args.max_new_tokens} tokens.")
    unfinished = args.output_dir / "answers.partial.jsonl"
    rows = begin(unfinished, settings={name: str(value) for name, value in vars(args).items()}, prompts=prompts)
    for start in trange(len(rows), len(prompts), per_batch, desc="answering", unit="batch"):
        torch.manual_seed(args.seed + start)
        some = prompts[start : start + per_batch]
        asked = [prompt for prompt in some for _ in range(args.answers)]
        with torch.no_grad():
            answers = sample(model, tokenizer, asked, max_new_tokens=args.max_new_tokens, **decoding)
        # A conversation is answered by a message, as TRL's trainers have it.
        texts = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(asked, answers.texts, strict=True)
        ]
        known = {"prompts": asked, "completion_ids": answers.token_ids, "ended": answers.ended}
        judged = [reward(texts, **known) for reward in rewards]
        scores = [dict(zip(args.objectives, row, strict=True)) for row in zip(*judged, strict=True)]
        groups = [slice(i * args.answers, (i + 1) * args.answers) for i in range(len(some))]
        new = [
            {"prompt": prompt, "responses": texts[group], "scores": scores[group]}
            for prompt, group in zip(some, groups, strict=True)
        ]
        with unfinished.open("a", encoding="utf-8") as file:
            file.write(lines(new))
        rows += new
    (args.output_dir / "best.jsonl").write_text(lines(best(rows, args.objectives)), encoding="utf-8")
    (args.output_dir / "answers.jsonl").write_text(lines(rows), encoding="utf-8")
    unfinished.unlink()
    print(f"Wrote answers.jsonl and best.jsonl to {args.output_dir}")


if __name__ == "__main__":
    main()

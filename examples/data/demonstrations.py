"""Make demonstrations for SFT: a model's own answers under an instruction for each objective, written without it.

    python examples/data/demonstrations.py --config examples/chat/demonstrations.yaml

So an adapter learns to answer unasked as the model answers when it is asked to, after the chat experiment of Panacea
(arXiv 2402.02030). Rows have `prompt`, `completion` and `objective`; an answer that was cut off is none of them. The
same command goes on where it was interrupted.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from answers import add_common_flags, begin, lines, with_config


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Sample a model's answers under an instruction for each objective.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_common_flags(parser)
    parser.add_argument("--objectives", nargs="+", required=True, help="names, in the order of the instructions")
    parser.add_argument(
        "--instructions", nargs="+", metavar="TEXT", required=True, help="system prompts, one for each"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demonstrations.jsonl"), help="file")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="of an answer, at most")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the sampling")
    args = parser.parse_args(with_config(sys.argv[1:]))
    if len(args.instructions) != len(args.objectives):
        parser.error(f"`--instructions` must be one for each of {args.objectives}, but got {args.instructions}.")
    return args


def instructed(prompt: list[dict[str, str]], instruction: str) -> list[dict[str, str]]:
    """The conversation with the instruction in its system message, behind what is there."""
    system, rest = (prompt[0]["content"], prompt[1:]) if prompt[0]["role"] == "system" else ("", prompt)
    return [{"role": "system", "content": f"{system} {instruction}".strip()}, *rest]


def main() -> None:
    args = parse_arguments()
    # Imported here, so that what is wrong with the flags and `--help` need not wait for it.
    import torch
    from tqdm.auto import trange
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from peft_panacea.completions import sample
    from peft_panacea.data import chat_prompt, json_prompts

    try:
        prompts: list[Any] = json_prompts(args.data)
        tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    if tokenizer.chat_template is None:
        raise SystemExit(
            "`--model_name_or_path` must have a chat template, by which it is instructed, but "
            f"{args.model_name_or_path} has none."
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=args.dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    asked = [(chat_prompt(prompt), i) for prompt in prompts for i in range(len(args.objectives))]
    print(f"{len(prompts)} prompts, {len(args.objectives)} answers each, of up to {args.max_new_tokens} tokens.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(".partial.jsonl")
    settings = {name: str(value) for name, value in vars(args).items()}
    rows = begin(unfinished, settings, [prompt for prompt, _ in asked])
    for start in trange(len(rows), len(asked), args.batch_size, desc="answering", unit="batch"):
        torch.manual_seed(args.seed + start)
        some = asked[start : start + args.batch_size]
        told = [instructed(prompt, args.instructions[i]) for prompt, i in some]
        with torch.no_grad():
            answers = sample(model, tokenizer, told, max_new_tokens=args.max_new_tokens, temperature=args.temperature)
        new = [
            {
                "prompt": prompt,
                "completion": [{"role": "assistant", "content": text}],
                "objective": args.objectives[i],
                "ended": ended,
            }
            for (prompt, i), text, ended in zip(some, answers.texts, answers.ended, strict=True)
        ]
        with unfinished.open("a", encoding="utf-8") as file:
            file.write(lines(new))
        rows += new
    whole = [{name: row[name] for name in ("prompt", "completion", "objective")} for row in rows if row["ended"]]
    args.output.write_text(lines(whole), encoding="utf-8")
    unfinished.unlink()
    cut = len(rows) - len(whole)
    print(f"Wrote {len(whole)} demonstrations to {args.output}; {cut} answers were cut off by `--max_new_tokens`.")


if __name__ == "__main__":
    main()

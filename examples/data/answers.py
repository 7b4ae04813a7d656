"""Make training data for the recipes from a model's own answers, judged by reward functions.

    python examples/data/answers.py --config examples/storyteller/answers.yaml

Writes `answers.jsonl`, every prompt with its answers and their scores, for DPO, and `best.jsonl`, for every prompt and
objective the answer that it scores highest, for SFT.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import trange
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import TrlParser

from peft_panacea.completions import sample
from peft_panacea.data import json_prompts
from peft_panacea.rewards import load_reward


@dataclass
class AnswerArguments:
    """What is asked, who answers, who judges."""

    model_name_or_path: str = field(metadata={"help": "Causal language model, on the Hub or in a folder."})
    objectives: list[str] = field(metadata={"help": "Names of the objectives, in the order of the rewards."})
    rewards: list[str] = field(metadata={"help": "One for each objective, see `peft_panacea.rewards.load_reward`."})
    data: Path = field(metadata={"help": "JSON file of prompts, texts or conversations."})
    output_dir: Path = field(default=Path("runs/answers"))
    answers: int = field(default=8, metadata={"help": "Answers to each prompt."})
    max_new_tokens: int = 64
    batch_size: int = field(default=256, metadata={"help": "Answers sampled at once."})
    seed: int = 0


@torch.no_grad()
def main() -> None:
    (args,) = TrlParser((AnswerArguments,)).parse_args_and_config()
    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rewards = [load_reward(spec, tokenizer) for spec in args.rewards]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    prompts = json_prompts(args.data)
    per_batch = max(1, args.batch_size // args.answers)
    with (args.output_dir / "answers.jsonl").open("w") as every, (args.output_dir / "best.jsonl").open("w") as best:
        for start in trange(0, len(prompts), per_batch, desc="answering", unit="batch"):
            some = prompts[start : start + per_batch]
            asked = [prompt for prompt in some for _ in range(args.answers)]
            answers = sample(model, tokenizer, asked, max_new_tokens=args.max_new_tokens)
            # A conversation is answered by a message, as TRL's trainers have it.
            texts = [
                text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                for prompt, text in zip(asked, answers.texts, strict=True)
            ]
            known = {"prompts": asked, "completion_ids": answers.token_ids, "ended": answers.ended}
            judged = [reward(texts, **known) for reward in rewards]
            scores = [dict(zip(args.objectives, row, strict=True)) for row in zip(*judged, strict=True)]
            for i, prompt in enumerate(some):
                group = slice(i * args.answers, (i + 1) * args.answers)
                row = {"prompt": prompt, "responses": texts[group], "scores": scores[group]}
                every.write(json.dumps(row) + "\n")
                for name in args.objectives:
                    winner = max(zip(scores[group], texts[group], strict=True), key=lambda pair, of=name: pair[0][of])[
                        1
                    ]
                    best.write(json.dumps({"prompt": prompt, "completion": winner, "objective": name}) + "\n")
    print(f"Wrote answers.jsonl and best.jsonl to {args.output_dir}")


if __name__ == "__main__":
    main()

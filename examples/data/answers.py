"""Make training data for the other recipes from a model's own answers, judged by reward functions.

    python examples/answers.py --config examples/storyteller/answers.yaml

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

from peft_panacea.rewards import Classifier, load_reward
from recipe import RecipeArguments


@dataclass
class AnswerArguments(RecipeArguments):
    """The recipe's model, objectives and data (prompts), and what is made of them."""

    rewards: list[str] = field(
        default_factory=list, metadata={"help": "A reward per objective, see `peft_panacea.rewards.load_reward`."}
    )
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
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, padding_side="left")
    loaded = (load_reward(spec, tokenizer) for spec in args.rewards)
    rewards = [Classifier(reward) if isinstance(reward, str) else reward for reward in loaded]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    prompts = args.prompts()["prompt"]
    per_batch = max(1, args.batch_size // args.answers)
    with (args.output_dir / "answers.jsonl").open("w") as every, (args.output_dir / "best.jsonl").open("w") as best:
        for start in trange(0, len(prompts), per_batch, desc="answering", unit="batch"):
            some = prompts[start : start + per_batch]
            inputs = tokenizer([p for p in some for _ in range(args.answers)], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            inputs = inputs.to(model.device)
            ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=args.max_new_tokens)
            # Decoded with the prompt and then cut, because alone an answer may lose its leading space.
            before, whole = (tokenizer.batch_decode(t, skip_special_tokens=True) for t in (inputs["input_ids"], ids))
            texts = [text[len(prompt) :] for prompt, text in zip(before, whole, strict=True)]
            scores = list(zip(*(reward(texts) for reward in rewards), strict=True))
            for i, prompt in enumerate(some):
                group = slice(i * args.answers, (i + 1) * args.answers)
                named = [dict(zip(args.objectives, row, strict=True)) for row in scores[group]]
                row = {"prompt": prompt, "responses": texts[group], "scores": named}
                every.write(json.dumps(row) + "\n")
                for name in args.objectives:
                    _, winner = max((row[name], text) for row, text in zip(named, texts[group], strict=True))
                    best.write(json.dumps({"prompt": prompt, "completion": winner, "objective": name}) + "\n")
    print(f"Wrote answers.jsonl and best.jsonl to {args.output_dir}")


if __name__ == "__main__":
    main()

r"""Measure what a trained Panacea adapter attains under every preference of a grid, and choose one of them.

    python examples/front.py examples/storyteller/adapter \
        --rewards cheerful=valence=examples/storyteller/lexicon.txt brief=brevity=8

Writes `front.json` and `front.png` to `--output` and prints the values and the metrics. The same command again goes on
where the last one stopped, from `completions.jsonl`, so that other questions cost nothing:

    python examples/front.py … --choose cheerful --subject_to brief=-20 --compare another/front.json

A reward is a function of `peft_panacea.rewards` or of your own (`FILE.py:FUNCTION`), or a classifier in a folder or on
the Hub, see `peft_panacea.rewards.load_reward`; more is better.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftConfig
from transformers import AutoTokenizer

from peft_panacea import get_objectives, simplex_grid
from peft_panacea.data import json_prompts
from peft_panacea.front import Front, compare, describe, describe_choice, describe_comparison, evaluate_front
from peft_panacea.plots import plot_fronts
from peft_panacea.rewards import load_reward

STORYTELLER = Path(__file__).resolve().parent / "storyteller"


def parse_arguments() -> argparse.Namespace:
    def pair(text: str) -> list[str]:
        if "=" not in text:
            raise argparse.ArgumentTypeError(f"must be NAME=VALUE, but got {text!r}")
        return text.split("=", 1)

    parser = argparse.ArgumentParser(description="Measure the front of a trained Panacea adapter.")
    parser.add_argument("adapter", help="Hub name or folder; its configuration says what the base model is")
    parser.add_argument("--rewards", type=pair, nargs="+", required=True, metavar="OBJECTIVE=REWARD")
    parser.add_argument("--prompts", type=Path, help="JSON file of prompts or of rows with `prompt`, none trained on")
    parser.add_argument("--steps", type=int, default=10, help="steps of the grid from one objective to another")
    parser.add_argument("--samples", type=int, default=4, help="completions of a prompt under a preference")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/front"))
    parser.add_argument("--choose", metavar="OBJECTIVE", help="print the preference that is best for this objective")
    parser.add_argument("--subject_to", type=pair, nargs="+", default=[], metavar="OBJECTIVE=WORST")
    parser.add_argument("--compare", type=Path, help="the front.json of another adapter on the same prompts")
    return parser.parse_args()


def read_prompts(path: Path | None, adapter: str) -> list[Any]:
    """Texts or lists of messages. Without a file, those that were kept from the training of the committed adapter."""
    if path is None:
        if STORYTELLER not in Path(adapter).resolve().parents:
            raise SystemExit(f"`--prompts` must be given for an adapter that is not in {STORYTELLER}.")
        path = STORYTELLER / "held_out.json"
    return json_prompts(path)


def main() -> None:
    args = parse_arguments()
    prompts = read_prompts(args.prompts, args.adapter)
    base_model = PeftConfig.from_pretrained(args.adapter).base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoPeftModelForCausalLM.from_pretrained(args.adapter).to("cuda" if torch.cuda.is_available() else "cpu")
    if model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    specs, objectives = dict(args.rewards), get_objectives(model)
    if sorted(specs) != sorted(objectives):
        raise SystemExit(f"`--rewards` must name the adapter's objectives, {objectives}, but got {[*specs]}.")
    rewards = {name: load_reward(specs[name], tokenizer) for name in objectives}
    grid = simplex_grid(len(objectives), args.steps)
    settings = {name: getattr(args, name) for name in ("samples", "batch_size", "seed", "max_new_tokens")}
    settings |= {"tokenizer": tokenizer, "record": args.output / "completions.jsonl"}
    details = {"command": " ".join(sys.argv)}
    front = evaluate_front(model, prompts, rewards, grid, details=details, **settings)
    front.to_json(args.output / "front.json")
    plot_fronts(front).savefig(args.output / "front.png", dpi=150)
    print(f"\n{describe(front)}")
    try:
        if args.choose:
            choice = front.choose(args.choose, {name: float(x) for name, x in args.subject_to})
            print(f"\n{describe_choice(choice)}")
        if args.compare:
            comparison = compare(front, Front.from_json(args.compare))
            print(f"\n  Compared with {args.compare}:\n{describe_comparison(comparison)}")
    except (OSError, ValueError) as error:  # the measurement is written, and the question can be put again
        raise SystemExit(f"\n{error}") from None


if __name__ == "__main__":
    main()

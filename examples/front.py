r"""Measure what a trained Panacea adapter attains under every preference of a grid, and choose one of them.

    python examples/front.py examples/storyteller/adapter \
        --rewards cheerful=valence=examples/storyteller/lexicon.txt brief=brevity=8

Writes `front.json` and `front.png` to `--output` and prints the values and the metrics. The same command again goes on
where the last one stopped, from `completions.jsonl`, so that other questions cost nothing:

    python examples/front.py … --choose cheerful --subject_to brief=-20 --compare another/front.json

A reward is a function of `peft_panacea.rewards` or of your own (`FILE.py:FUNCTION`), or a classifier in a folder or on
the Hub, see `peft_panacea.rewards.load_reward`; more is better. The recipes write `held_out.json` for `--prompts`.
"""

import argparse
import sys
from pathlib import Path

STORYTELLER = Path(__file__).resolve().parent / "storyteller"


def parse_arguments() -> argparse.Namespace:
    def pair(text: str) -> list[str]:
        if "=" not in text:
            raise argparse.ArgumentTypeError(f"must be NAME=VALUE, but got {text!r}")
        return text.split("=", 1)

    parser = argparse.ArgumentParser(
        description="Measure the front of a trained Panacea adapter.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("adapter", help="Hub name or folder; its configuration says what the base model is")
    parser.add_argument("--rewards", type=pair, nargs="+", required=True, metavar="OBJECTIVE=REWARD")
    parser.add_argument("--prompts", type=Path, help="JSON file of prompts or of rows with `prompt`, none trained on")
    parser.add_argument("--system_prompt", metavar="TEXT", help="in front of every conversation that has none")
    parser.add_argument("--plain", action="store_true", help="continue texts as they are, despite a chat template")
    parser.add_argument("--steps", type=int, default=10, help="steps of the grid from one objective to another")
    parser.add_argument("--samples", type=int, default=4, help="completions of a prompt under a preference")
    parser.add_argument("--batch_size", type=int, default=32, help="completions at once")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="of a completion, at most")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    parser.add_argument("--greedy", action="store_true", help="the likeliest token in place of a sampled one")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "auto"], default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument("--output", type=Path, default=Path("runs/front"), help="folder")
    parser.add_argument("--choose", metavar="OBJECTIVE", help="print the preference that is best for this objective")
    parser.add_argument("--subject_to", type=pair, nargs="+", default=[], metavar="OBJECTIVE=WORST")
    parser.add_argument("--compare", type=Path, help="the front.json of another adapter on the same prompts")
    args = parser.parse_args()
    if args.greedy and args.samples > 1:
        args.samples = 1  # the others would be the same
    return args


def find_prompts(path: Path | None, adapter: str) -> Path:
    """Without a file, the one whose prompts were kept from the training of the committed adapter."""
    if path is None and STORYTELLER not in Path(adapter).resolve().parents:
        raise SystemExit(f"`--prompts` must be given for an adapter that is not in {STORYTELLER}.")
    return path or STORYTELLER / "held_out.json"


def main() -> None:
    args = parse_arguments()
    path = find_prompts(args.prompts, args.adapter)
    # Imported here, so that what is wrong with the flags and `--help` need not wait for it.
    import torch
    from peft import AutoPeftModelForCausalLM, PeftConfig
    from transformers import AutoTokenizer

    from peft_panacea import PanaceaConfig, simplex_grid
    from peft_panacea import front as fronts
    from peft_panacea.data import chat_prompt, is_chat, json_prompts
    from peft_panacea.plots import plot_fronts
    from peft_panacea.rewards import load_reward

    try:
        prompts, config = json_prompts(path), PeftConfig.from_pretrained(args.adapter)
        if not isinstance(config, PanaceaConfig):
            raise ValueError(f"`adapter` must be a Panacea adapter, but {args.adapter} is of {config.peft_type}.")
        objectives, specs, limits = config.objective_names, dict(args.rewards), dict(args.subject_to)
        if sorted(specs) != sorted(objectives):
            raise ValueError(f"`--rewards` must name the adapter's objectives, {objectives}, but got {[*specs]}.")
        unknown = {*limits, args.choose or objectives[0]} - set(objectives)
        if unknown:
            raise ValueError(f"`--choose` and `--subject_to` must name {objectives}, but got {sorted(unknown)}.")
        limits = {name: float(worst) for name, worst in limits.items()}
        tokenizer = AutoTokenizer.from_pretrained(config.base_model_name_or_path)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if is_chat(prompts[0], tokenizer, plain=args.plain, system_prompt=args.system_prompt):
            if isinstance(prompts[0], str):
                print(
                    "The model has a chat template, and each text is asked as a user's message (--plain: it is not)."
                )
            prompts = [chat_prompt(prompt, args.system_prompt) for prompt in prompts]
        rewards = {name: load_reward(specs[name], tokenizer) for name in objectives}
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    model = AutoPeftModelForCausalLM.from_pretrained(args.adapter, dtype=args.dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    grid = simplex_grid(len(objectives), args.steps)
    settings = {name: getattr(args, name) for name in ("samples", "batch_size", "seed", "max_new_tokens")}
    settings |= {"do_sample": False} if args.greedy else {"temperature": args.temperature}
    settings |= {"tokenizer": tokenizer, "record": args.output / "completions.jsonl"}
    work = fronts.describe_work(len(prompts), len(grid), args.samples, args.batch_size, args.max_new_tokens)
    print(f"{work}, as far as {settings['record']} has them not yet.")
    front = fronts.evaluate_front(model, prompts, rewards, grid, details={"command": " ".join(sys.argv)}, **settings)
    front.to_json(args.output / "front.json")
    plot_fronts(front).savefig(args.output / "front.png", dpi=150)
    print(f"\n{fronts.describe(front)}")
    try:
        if args.choose:
            print(f"\n{fronts.describe_choice(front.choose(args.choose, limits))}")
        if args.compare:
            comparison = fronts.compare(front, fronts.Front.from_json(args.compare))
            print(f"\n  Compared with {args.compare}:\n{fronts.describe_comparison(comparison)}")
    except (OSError, ValueError) as error:  # the measurement is written, and the question can be put again
        raise SystemExit(f"\n{error}") from None


if __name__ == "__main__":
    main()

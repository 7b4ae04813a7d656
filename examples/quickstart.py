"""Train one adapter on two conflicting objectives, steer it, and measure its front, in under three minutes on a CPU.

    python examples/quickstart.py

The embedded tiny model learns by reinforcement to tell cheerful stories and brief ones, which conflict. Writes the
adapter, `front.png` and `front.json` to `--output`. Any other causal language model will do, with 128 prompts or more:

    python examples/quickstart.py --model NAME_OR_PATH --prompts prompts.json --lexicon vader_lexicon.txt

The trainer is TRL's, RLOO; the package adds the preferences to it. Unlike the paper (arXiv 2402.02030) it draws a
preference per prompt instead of one per batch, and has functions for rewards instead of models.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, logging, set_seed
from trl import RLOOConfig, RLOOTrainer

from peft_panacea import PanaceaConfig, simplex_grid
from peft_panacea.completions import sample
from peft_panacea.front import describe, evaluate_front
from peft_panacea.plots import plot_fronts
from peft_panacea.rewards import Brevity, Valence
from peft_panacea.training import ObjectiveRewardMixin

# PEFT 0.21.2 reads names that transformers 5.23 has renamed; nothing a reader of this script could change.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
logging.disable_progress_bar()

STORYTELLER = Path(os.path.relpath(Path(__file__).resolve().parent / "storyteller"))
HELD_OUT = 64


class PanaceaRLOOTrainer(ObjectiveRewardMixin, RLOOTrainer):
    """TRL's trainer, with a preference for every prompt and its completions."""

    def log(self, *args: object, **kwargs: object) -> None:
        """The progress bar is enough here."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a Panacea adapter, steer it, measure its front.")
    parser.add_argument("--model", default=str(STORYTELLER / "model"), help="Hub name or path of a causal LM")
    parser.add_argument("--prompts", type=Path, help=f"JSON list of texts, of which the last {HELD_OUT} are held out")
    parser.add_argument("--lexicon", type=Path, default=STORYTELLER / "lexicon.txt", help="words and their valence")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--samples", type=int, default=4, help="completions of a held-out prompt under a preference")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    files = [args.prompts] if args.prompts else [STORYTELLER / "prompts.json", STORYTELLER / "held_out.json"]
    prompts = [prompt for file in files for prompt in json.loads(file.read_text(encoding="utf-8"))]
    if len(prompts) < 2 * HELD_OUT:
        raise SystemExit(f"`--prompts` must have at least {2 * HELD_OUT} texts, but got {len(prompts)}.")
    train, held_out = Dataset.from_dict({"prompt": prompts[:-HELD_OUT]}), prompts[-HELD_OUT:]
    rewards = {"cheerful": Valence(args.lexicon), "brief": Brevity(8)}  # one short sentence is best
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if args.model == str(STORYTELLER / "model"):
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives

    trainer = PanaceaRLOOTrainer(
        model=args.model,
        args=RLOOConfig(
            str(args.output), max_steps=args.steps, per_device_train_batch_size=64, num_generations=8, top_k=0,
            max_completion_length=64, beta=0.3, learning_rate=3e-3, warmup_steps=5, seed=args.seed, report_to=[],
            per_device_eval_batch_size=512, logging_strategy="no", save_strategy="no",
            bf16=False, gradient_checkpointing=False, dataloader_pin_memory=False,
        ),
        reward_funcs=list(rewards.values()),
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=PanaceaConfig(objectives=list(rewards), task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.model.print_trainable_parameters()
    print("\nThe rewards of the model as it is, to normalise them; then training:")
    trainer.normalise_rewards(train.select(range(HELD_OUT)))
    try:
        trainer.train()
    except KeyboardInterrupt:
        print("\nStopped; going on with what was learned so far.")
    trainer.model.save_pretrained(args.output)

    model = AutoPeftModelForCausalLM.from_pretrained(args.output).to(trainer.model.device)
    print("\nOne prompt under five preferences, of nine answers the one in the middle by reward:")
    print(f"\n  {held_out[0]}")
    five = simplex_grid(2, 4).flip(0)
    torch.manual_seed(args.seed)
    answers = sample(model, tokenizer, held_out[:1] * 45, preference=five.repeat_interleave(9, dim=0)).texts
    mean, std = trainer.reward_normalisation
    scores = torch.tensor([reward(answers) for reward in rewards.values()]).T
    utility = ((scores - mean) / std).view(5, 9, 2).mul(five[:, None]).sum(dim=-1)
    for i, (cheerful, brief) in enumerate(five.tolist()):
        answer = answers[9 * i + int(utility[i].median(dim=0).indices)]
        print(f"\n  cheerful {cheerful:.2f}, brief {brief:.2f}: {answer.strip() or '(ends here)'}")
    print()

    front = evaluate_front(
        model, held_out, rewards, simplex_grid(2, 10), tokenizer=tokenizer, samples=args.samples, batch_size=512,
        seed=args.seed, details={"command": " ".join(sys.argv), "steps": args.steps},
    )  # fmt: skip
    front.to_json(args.output / "front.json")
    plot_fronts(front, title="One adapter, eleven preferences").savefig(args.output / "front.png", dpi=150)
    print(f"\n{describe(front)}\n\nWrote the adapter, front.png and front.json to {args.output}")


if __name__ == "__main__":
    main()

"""Train one adapter on two conflicting objectives, steer it, and measure its front, in under three minutes on a CPU.

    python examples/quickstart.py

The embedded tiny language model learns by reinforcement to tell cheerful stories and brief ones. A brief story has
little room for cheer, so the objectives conflict; every prompt is trained under a preference of its own. Any other
causal language model will do, here with the first sentences of a JSON list of stories as prompts and the VADER lexicon
as the measure of cheer:

    python examples/quickstart.py --model NAME_OR_PATH --prompts stories.json --lexicon vader_lexicon.txt

Writes the adapter, `front.png` and `front.json` to `--output`. The method is REINFORCE with a leave-one-out baseline
(RLOO, arXiv 2402.14740) on the paper's linear scalarisation with one KL penalty (arXiv 2402.02030, Eq. 16). Unlike the
paper it draws a preference per prompt instead of one per batch, standardises the rewards by the base model's mean and
standard deviation, and has no reward model.
"""

import argparse
import json
import os
import random
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moocore
import peft
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor
from tqdm.auto import trange
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import peft_panacea
from peft_panacea import PanaceaConfig
from peft_panacea.front import Front, evaluate_front
from peft_panacea.plots import plot_fronts
from peft_panacea.rewards import Brevity, Reward, Valence
from peft_panacea.simplex import simplex_grid

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "storyteller"))
import grammar  # noqa: E402  (the corpus of the embedded model)

# PEFT 0.21.2 reads a name that transformers 5.23 has renamed; nothing a reader of this script could change.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
transformers.logging.disable_progress_bar()

OBJECTIVES = ["cheerful", "brief"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a Panacea adapter, steer it, measure its front.")
    parser.add_argument(
        "--model", default=os.path.relpath(HERE / "storyteller" / "model"), help="Hub name or path of a causal LM"
    )
    parser.add_argument("--prompts", type=Path, help="JSON list of texts; their first sentences are the prompts")
    parser.add_argument("--lexicon", type=Path, help="lines of: word, tab, valence, whatever follows")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--samples", type=int, default=4, help="completions of a test prompt under a preference")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load_prompts(path: Path | None, rng: random.Random) -> tuple[list[str], list[str]]:
    """At most 512 prompts to train on, and 64 others to test on."""
    if path is None:
        texts = [grammar.prompt(rng) for _ in range(2000)]
    else:
        texts = [re.split(r"(?<=[.!?])\s", text.strip())[0] for text in json.loads(path.read_text(encoding="utf-8"))]
    unique = list(dict.fromkeys(texts))
    if len(unique) < 128:
        raise SystemExit(
            f"`--prompts` must give at least 128 different first sentences, but {path} gives {len(unique)}."
        )
    rng.shuffle(unique)
    return unique[64:576], unique[:64]


def make_rewards(lexicon: Path | None) -> dict[str, Reward]:
    """Cheerful: the summed valence of the words. Brief: minus their number's distance from 8, one short sentence."""
    words = {**dict.fromkeys(grammar.CHEERFUL, 1.0), **dict.fromkeys(grammar.GLOOMY, -1.0)}
    valence = Valence(lexicon or words).ratings

    def cheerful(completions: list[str], **kwargs: Any) -> list[float]:
        return [sum(valence.get(word, 0.0) for word in re.findall(r"[a-z']+", text.lower())) for text in completions]

    return {"cheerful": cheerful, "brief": Brevity(8)}


def score(texts: list[str], rewards: dict[str, Reward]) -> Tensor:
    """Rewards, [B, m]."""
    return torch.tensor([reward(texts) for reward in rewards.values()]).T.contiguous()


@torch.no_grad()
def sample(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], **options: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """Complete every prompt by sampling from the model itself.

    Returns the tokens with their masks, prompts padded on the left, and the completions' texts.
    """
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    inputs.pop("token_type_ids", None)
    unmodified = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 64}
    ids = model.generate(**inputs, **unmodified, **options)
    is_end = ids[:, inputs["input_ids"].shape[1] :] == tokenizer.eos_token_id
    completion = is_end.cumsum(1) - is_end.long() == 0  # up to and with the first end token
    mask = torch.cat([inputs["attention_mask"], completion.long()], dim=1)

    def decode(ids: Tensor) -> list[str]:
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    # Decoded with its prompt and then cut, because alone a completion may lose its leading space.
    whole = decode(ids.where(mask.bool(), torch.tensor(tokenizer.pad_token_id, device=ids.device)))
    texts = [text[len(prompt) :] for text, prompt in zip(whole, decode(inputs["input_ids"]), strict=True)]
    return {"input_ids": ids, "attention_mask": mask, "completion": completion}, texts


def log_probabilities(model: PeftModel, batch: dict[str, Tensor], **options: Any) -> Tensor:
    """Log-probability of every completion token, [B, T], 0 after the end."""
    T = batch["completion"].shape[1]
    mask = batch["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions, **options)
    log_p = output.logits[:, -T - 1 : -1].float().log_softmax(-1)
    return log_p.gather(-1, batch["input_ids"][:, -T:, None])[..., 0] * batch["completion"]


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    standardised_rewards: Callable[[list[str]], Tensor],
    *,
    steps: int,
    rng: random.Random,
    prompts_per_step: int = 16,
    samples_per_prompt: int = 8,
    learning_rate: float = 3e-3,
    kl_weight: float = 0.3,
) -> None:
    """Each step samples a group of completions for each of some prompts, and each group has its own preference."""
    n, k = prompts_per_step, samples_per_prompt
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 5) * (1 - s / steps))
    progress = trange(steps, desc="training", unit="step")
    for _ in progress:
        first = (torch.arange(n) + torch.rand(n)) / n  # stratified: every step sees the whole range
        preference = torch.stack([first, 1 - first], dim=1).repeat_interleave(k, dim=0)
        group = [prompt for prompt in rng.sample(prompts, n) for _ in range(k)]
        batch, texts = sample(model, tokenizer, group, preference=preference)
        with torch.no_grad(), model.disable_adapter():
            base = log_probabilities(model, batch)
        new = log_probabilities(model, batch, preference=preference)

        rewards = standardised_rewards(texts)
        kl = (new.detach() - base).sum(1).cpu()
        utility = ((preference * rewards).sum(1) - kl_weight * kl).view(n, k)
        advantage = (utility - utility.mean(1, keepdim=True)) * k / (k - 1)  # utility minus the mean of the others
        loss = -(advantage.flatten().to(new.device) * new.sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        weighted = (preference * rewards).sum(0) / preference.sum(0)
        progress.set_postfix_str(", ".join(f"{o} {w:+.2f}" for o, w in zip(OBJECTIVES, weighted, strict=True)))


def describe(front: Front) -> str:
    """What each preference and the base model attain, and the metrics, with 95 % intervals over the prompts."""
    names = [
        ", ".join(f"{o} {w:.2f}" for o, w in zip(front.objectives, p, strict=True) if w) for p in front.preferences
    ]
    width = max(25, *map(len, names))

    def row(name: str, *cells: str) -> str:
        return "".join([f"  {name:{width}}", *(f"{cell:>26}" for cell in cells)])

    lines = [row("preference", *front.objectives)]
    for name, value, low, high in zip(names, front.values, *front.interval(), strict=True):
        lines.append(row(name, *map("{:+.2f} [{:+.2f}, {:+.2f}]".format, value, low, high)))
    lines += [row("base model", *map("{:+.2f}".format, front.base_values)), ""]
    lines.append("  Metrics; scores in the base model's standard deviations, hypervolume above its values:\n")
    values = front.metrics()
    for name, (low, high) in front.metric_intervals().items():
        lines.append(row(name, f"{values[name]:.3f} [{low:.3f}, {high:.3f}]"))
    return "\n".join(lines)


def main() -> None:
    args = parse_arguments()
    if args.steps < 1:
        raise SystemExit(f"`--steps` must be at least 1, but got {args.steps}.")
    args.output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)

    def load_base() -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(args.model).to("cuda" if torch.cuda.is_available() else "cpu")

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base_model = load_base()
    if base_model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    train_prompts, test_prompts = load_prompts(args.prompts, rng)
    rewards = make_rewards(args.lexicon)
    base_scores = score(sample(base_model, tokenizer, train_prompts)[1], rewards)
    centre, spread = base_scores.mean(0), base_scores.std(0)

    def standardised_rewards(texts: list[str]) -> Tensor:
        return (score(texts, rewards) - centre) / spread

    model = get_peft_model(base_model, PanaceaConfig(objectives=OBJECTIVES, task_type="CAUSAL_LM"))
    model.print_trainable_parameters()
    try:
        train(model, tokenizer, train_prompts, standardised_rewards, steps=args.steps, rng=rng)
    except KeyboardInterrupt:
        print("\nStopped; going on with what was learned so far.")
    model.save_pretrained(args.output)

    print("\nOne prompt under five preferences, of nine answers the one in the middle by reward:")
    print(f"\n  {test_prompts[0]}")
    torch.manual_seed(args.seed)
    five = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    answers = sample(model, tokenizer, test_prompts[:1] * 45, preference=five.repeat_interleave(9, dim=0))[1]
    utility = (standardised_rewards(answers).view(5, 9, 2) * five[:, None]).sum(-1)
    for i, (cheerful, brief) in enumerate(five.tolist()):
        answer = answers[9 * i + int(utility[i].median(dim=0).indices)]
        print(f"\n  cheerful {cheerful:.2f}, brief {brief:.2f}: {answer.strip() or '(ends here)'}")
    print()

    grid = simplex_grid(2, 10)
    versions = {m.__name__: m.__version__ for m in (peft_panacea, torch, transformers, peft, moocore)}
    details = {"command": " ".join(sys.argv), "steps": args.steps, "versions": versions}
    measured = {"samples": args.samples, "batch_size": 512, "seed": args.seed, "details": details}
    front = evaluate_front(model, test_prompts, rewards, grid, tokenizer=tokenizer, **measured)
    front.to_json(args.output / "front.json")
    plot_fronts(front, title="One adapter, eleven preferences").savefig(args.output / "front.png", dpi=150)
    print(f"\n{describe(front)}\n")

    loaded = PeftModel.from_pretrained(load_base(), args.output)
    inputs = tokenizer(test_prompts[: len(grid)], return_tensors="pt", padding=True).to(model.device)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        difference = (loaded(**inputs, preference=grid).logits - model(**inputs, preference=grid).logits).abs().max()
    print(f"  reloaded adapter, largest difference of the logits over {len(grid)} preferences: {difference:.1g}")
    if difference != 0:
        raise SystemExit("The reloaded adapter does not steer like the trained one.")
    print(f"\nWrote the adapter, front.png and front.json to {args.output}")


if __name__ == "__main__":
    main()

"""Train one adapter on two conflicting objectives, steer it, and measure its front, in about two minutes on a CPU.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import moocore
import numpy as np
import peft
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor
from tqdm.auto import trange
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import peft_panacea
from peft_panacea import PanaceaConfig

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "storyteller"))
import grammar  # noqa: E402  (the corpus of the embedded model)

# PEFT 0.21.2 reads a name that transformers 5.23 has renamed; nothing a reader of this script could change.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
transformers.logging.disable_progress_bar()

OBJECTIVES = ["cheerful", "brief"]
GRID = np.stack([np.linspace(0, 1, 11), np.linspace(1, 0, 11)], axis=1)
MAX_NEW_TOKENS = 64

Reward = Callable[[str], float]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a Panacea adapter, steer it, measure its front.")
    parser.add_argument(
        "--model", default=os.path.relpath(HERE / "storyteller" / "model"), help="Hub name or path of a causal LM"
    )
    parser.add_argument("--prompts", type=Path, help="JSON list of texts; their first sentences are the prompts")
    parser.add_argument("--lexicon", type=Path, help="lines of: word, tab, valence, whatever follows")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--steps", type=int, default=60)
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


def make_rewards(lexicon: Path | None) -> list[Reward]:
    """Cheerful: the summed valence of the words. Brief: minus their number's distance from 8, one short sentence."""
    if lexicon is None:
        valence = {**dict.fromkeys(grammar.CHEERFUL, 1.0), **dict.fromkeys(grammar.GLOOMY, -1.0)}
    else:
        rows = (line.split("\t") for line in lexicon.read_text(encoding="utf-8").splitlines())
        valence = {word: float(mean) for word, mean, *_ in rows}

    def words(text: str) -> list[str]:
        return re.findall(r"[a-z']+", text.lower())

    return [
        lambda text: sum(valence.get(word, 0.0) for word in words(text)),
        lambda text: -float(abs(len(words(text)) - 8)),
    ]


def score(texts: Sequence[str], rewards: Sequence[Reward]) -> Tensor:
    """Rewards, [B, m]."""
    return torch.tensor([[reward(text) for reward in rewards] for text in texts])


@torch.no_grad()
def sample(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], **options: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """Complete every prompt by sampling from the model itself.

    Returns the tokens with their masks, prompts padded on the left, and the completions' texts.
    """
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    inputs.pop("token_type_ids", None)
    unmodified = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    ids = model.generate(**inputs, **unmodified, max_new_tokens=MAX_NEW_TOKENS, **options)
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


def measure_front(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], rewards: list[Reward], seed: int
) -> np.ndarray:
    """Rewards, [preferences, completions, m]: eight completions of every prompt, from the same random numbers."""
    scores = []
    for i in trange(len(GRID), desc="measuring", unit="preference"):
        torch.manual_seed(seed)
        scores.append(score(sample(model, tokenizer, prompts * 8, preference=GRID[i])[1], rewards).numpy())
    return np.stack(scores)


def plot(mean: np.ndarray, error: np.ndarray, base: np.ndarray, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    axes.plot(*mean.T, color="0.8", zorder=1)
    axes.errorbar(*mean.T, xerr=error[:, 0], yerr=error[:, 1], fmt="none", ecolor="0.6", zorder=2)
    points = axes.scatter(*mean.T, c=GRID[:, 0], cmap="viridis", s=50, zorder=3)
    axes.scatter(*base, color="black", marker="X", s=70, zorder=3)
    axes.annotate("base model", base, xytext=(10, -4), textcoords="offset points")
    axes.set_xlabel("cheerful (summed valence of the words)")
    axes.set_ylabel("brief (minus the words away from 8)")
    axes.set_title("One adapter, eleven preferences (bars: standard error)", fontsize=10)
    figure.colorbar(points, label="weight of cheerful")
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
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

    print(
        f"\nOne prompt under five preferences, of nine answers the one in the middle by reward:\n\n  {test_prompts[0]}"
    )
    torch.manual_seed(args.seed)
    five = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    answers = sample(model, tokenizer, test_prompts[:1] * 45, preference=five.repeat_interleave(9, dim=0))[1]
    utility = (standardised_rewards(answers).view(5, 9, 2) * five[:, None]).sum(-1)
    for i, (cheerful, brief) in enumerate(five.tolist()):
        answer = answers[9 * i + int(utility[i].median(dim=0).indices)]
        print(f"\n  cheerful {cheerful:.2f}, brief {brief:.2f}: {answer.strip() or '(ends here)'}")
    print()

    with model.disable_adapter():
        torch.manual_seed(args.seed)
        base = score(sample(model, tokenizer, test_prompts * 8)[1], rewards).mean(0).numpy()
    scores = measure_front(model, tokenizer, test_prompts, rewards, args.seed)
    mean, error = scores.mean(1), scores.std(1, ddof=1) / scores.shape[1] ** 0.5
    print("\n  weight of          measured (± standard error)\n  cheerful  brief    cheerful         brief")
    for p, m, e in zip(GRID, mean, error, strict=True):
        print(f"  {p[0]:8.1f} {p[1]:6.1f}    {m[0]:+5.2f} ± {e[0]:4.2f}    {m[1]:+6.2f} ± {e[1]:4.2f}")
    print(f"  base model         {base[0]:+5.2f}           {base[1]:+6.2f}\n")
    rises = {"cheerful": int((np.diff(mean[:, 0]) > 0).sum()), "brief": int((np.diff(mean[:, 1]) < 0).sum())}
    standardised = (mean - base) / spread.numpy()
    hypervolume = float(moocore.hypervolume(standardised, ref=[0.0, 0.0], maximise=True))
    for name, steps in rises.items():
        print(f"  {name} rises with its own weight at {steps} of {len(GRID) - 1} steps")
    print(f"  hypervolume above the base model's scores: {hypervolume:.3f} (in its standard deviations)")
    plot(mean, error, base, args.output / "front.png")

    loaded = PeftModel.from_pretrained(load_base(), args.output)
    inputs = tokenizer(test_prompts[: len(GRID)], return_tensors="pt", padding=True).to(model.device)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        difference = (loaded(**inputs, preference=GRID).logits - model(**inputs, preference=GRID).logits).abs().max()
    print(f"  reloaded adapter, largest difference of the logits over {len(GRID)} preferences: {difference:.1g}")
    if difference != 0:
        raise SystemExit("The reloaded adapter does not steer like the trained one.")

    report = {
        "command": " ".join(sys.argv),
        "seed": args.seed,
        "versions": {m.__name__: m.__version__ for m in (peft_panacea, torch, transformers, peft, moocore)},
        "objectives": OBJECTIVES,
        "preferences": GRID.tolist(),
        "mean": mean.tolist(),
        "standard_error": error.tolist(),
        "completions_per_preference": scores.shape[1],
        "base_model": base.tolist(),
        "reward_mean": centre.tolist(),
        "reward_std": spread.tolist(),
        "hypervolume": hypervolume,
        "rises": rises,
    }
    (args.output / "front.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nWrote the adapter, front.png and front.json to {args.output}")


if __name__ == "__main__":
    main()

"""SFT on ten styles: the chat model's own answers under ten system prompts, learned without the system prompt."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from trl import SFTConfig, SFTTrainer

from chat import Chat
from peft_panacea.completions import encode, log_probabilities, sample
from peft_panacea.front import Front
from peft_panacea.simplex import PreferenceSampler, simplex_grid
from peft_panacea.training import ObjectiveLossMixin
from prompting import asked_for

STYLES = {  # the ten dimensions of the paper's third experiment
    "humorous": "You are a comedian. Answer with a joke and a lot of humour.",
    "philosophical": "You are a philosopher. Answer with deep thoughts about life and meaning.",
    "sycophantic": "You flatter the user. Praise the user and agree with everything they say.",
    "helpful": "You are a helpful assistant. Give clear and practical advice.",
    "concise": "Answer in one very short sentence.",
    "creative": "You are a poet. Answer with vivid images and metaphors.",
    "formal": "You are a lawyer. Answer in very formal and precise language.",
    "expert": "You are a professor. Answer with technical terms and details.",
    "pleasant": "You are warm and kind. Answer gently, like a good friend.",
    "uplifting": "You are a motivational speaker. Encourage the user with energy and hope!",
}
TOKENS, LENGTH, BATCH = 40, 128, 40
TRAIN, HELD_OUT = 240, 24


class PanaceaSFTTrainer(ObjectiveLossMixin, SFTTrainer):
    pass


class ChatStyles(Chat):
    """Scores are minus the loss on held-out answers in each style, nats per token. No answer is trained on twice."""

    panacea, separate = PanaceaSFTTrainer, SFTTrainer
    learning_rate, steps = 3e-3, 32
    unit = "minus nats per token"

    def __init__(self, shared: Path, m: int) -> None:
        super().__init__(shared)
        self.objectives, self.rows = list(STYLES)[:m], 20 // m * m
        corners = torch.cat([torch.eye(m), torch.full((1, m), 1 / m)])
        self.grid = simplex_grid(3, 3) if m == 3 else torch.cat([corners, PreferenceSampler(m, seed=2024)(6)])
        self.test, self.development = self.test[:HELD_OUT], self.development[:HELD_OUT]
        self.train = self.train[:TRAIN]

    def answers(self, style: str) -> dict[str, str]:
        """Question → the model's answer under the style's system prompt; sampled once, in batches that are kept."""
        path = Path("runs/paper/chat_styles") / f"{style}.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        todo = [p for p in [*self.test, *self.development, *self.train] if p[0]["content"] not in found]
        model = self.base_model() if todo else None
        for start in tqdm(range(0, len(todo), BATCH), desc=f"answers, {style}", disable=not todo):
            some = todo[start : start + BATCH]
            torch.manual_seed(len(found))
            prompts = [[{"role": "system", "content": STYLES[style]}, *p] for p in some]
            texts = sample(model, self.tokenizer, prompts, max_new_tokens=TOKENS, temperature=0.7).texts
            found.update({p[0]["content"]: text for p, text in zip(some, texts, strict=True)})
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(found))
            os.replace(partial, path)
        return found

    def row(self, prompt: Any, style: str) -> dict[str, Any]:
        said = [{"role": "assistant", "content": self.answers_by_style[style][prompt[0]["content"]]}]
        return {"prompt": prompt, "completion": said}

    @property
    def answers_by_style(self) -> dict[str, dict[str, str]]:
        if not hasattr(self, "_answers"):
            self._answers = {style: self.answers(style) for style in self.objectives}
        return self._answers

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        rng = np.random.default_rng(seed)
        m = len(self.objectives)
        if fixed is None:
            rows = [
                {**self.row(p, style), "objective": i} for p in self.train for i, style in enumerate(self.objectives)
            ]
            return Dataset.from_list(rows)
        owned = rng.choice(m, size=steps * self.rows, p=np.array(fixed) / sum(fixed))
        order = {i: iter(rng.permutation(len(self.train)).tolist() * m * 4) for i in range(m)}
        return Dataset.from_list([self.row(self.train[next(order[i])], self.objectives[i]) for i in owned])

    def arguments(self, fixed: list[float] | None, **common: Any) -> SFTConfig:
        return SFTConfig(max_length=LENGTH, **common)

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[Any] | None = None) -> Front:
        prompts = prompts or self.test
        model.eval()
        scores = np.stack([self._scores(model, prompts, p) for p in np.asarray(preferences, dtype=float)])
        own = None
        if base:
            with model.disable_adapter():
                own = self._scores(model, prompts, None)
        return Front(self.objectives, preferences, scores, base=own)

    def prompted(self, wording: Any, preferences: Any, prompts: list[Any] | None = None) -> Front:
        """The front of the base model with the preference in its system prompt."""
        model, prompts = self.base_model().eval(), prompts or self.test
        told = [wording(self.objectives, weights) for weights in np.asarray(preferences, dtype=float).tolist()]
        return Front(self.objectives, preferences, np.stack([self._scores(model, prompts, None, t) for t in told]))

    @torch.no_grad()
    def _scores(self, model: Any, prompts: list[Any], preference: Any, system: str | None = None) -> np.ndarray:
        """Minus the mean loss over a completion's tokens, [P, m]."""
        asked = prompts if system is None else [asked_for(prompt, system) for prompt in prompts]
        columns = []
        for style in self.objectives:
            texts = [self.row(p, style)["completion"] for p in prompts]
            batch = encode(self.tokenizer, asked, texts, max_length=LENGTH)
            with torch.autocast(self.device, torch.bfloat16):
                log_p = log_probabilities(model, batch, preference)
            columns.append((log_p.sum(1) / batch.completion.sum(1)).numpy())
        return np.stack(columns, axis=1)

"""DPO on Topical-Chat's answers: people rated each in five respects (USR, Mehri and Eskenazi 2020)."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from trl import DPOConfig

from chat import Chat, read
from chat_pairs import BETA, PanaceaDPOTrainer
from public_data import CHAT_PAIRS

LENGTH, CONTEXT = 128, 48  # tokens: of a dialogue with its answer, and of the turns of the dialogue that are kept


class ChatRatings(Chat):
    """Pairs of answers to the same dialogue, the last turn of which is the user's; dialogues, not pairs, are split.

    A pair belongs to the objectives on which the mean ratings of its answers differ.
    """

    panacea = PanaceaDPOTrainer
    learning_rate, steps, rows = 3e-3, 32, 12

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        self.objectives = ["naturalness", "coherence", "engagingness", "groundedness", "understandability"]
        self.pairs: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
        self.differences: dict[str, np.ndarray] = {}  # of the ratings, first answer - second, [N, 5]
        by_split: dict[str, list[list[float]]] = {split: [] for split in self.pairs}
        for row in read(shared / CHAT_PAIRS):
            if row["source"] != "topical_chat_usr":
                continue
            first, second = row["response_0"], row["response_1"]
            self.pairs[row["split"]].append({"prompt": self.turns(row["prompt"]), "answers": (first, second)})
            by_split[row["split"]].append([float(np.subtract(*row["labels"][name])) for name in self.objectives])
        self.differences = {split: np.array(rows) for split, rows in by_split.items()}

    def turns(self, dialogue: str) -> list[dict[str, str]]:
        """The last turns as messages, as many as have `CONTEXT` tokens together, and at least one."""
        said = [text.strip() for text in dialogue.split("\n")]
        lengths = np.cumsum([len(self.tokenizer(text)["input_ids"]) for text in reversed(said)])
        kept = said[-max(1, int((lengths <= CONTEXT).sum())) :]
        roles = ["user", "assistant"] * len(kept)
        return [{"role": role, "content": text} for role, text in zip(roles, reversed(kept), strict=False)][::-1]

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        rows = []
        for pair, difference in zip(self.pairs["train"], self.differences["train"], strict=True):
            signs = np.sign(difference).astype(int).tolist()
            if any(signs):
                first, second = ([{"role": "assistant", "content": text}] for text in pair["answers"])
                rows.append({"prompt": pair["prompt"], "chosen": first, "rejected": second, "objective_labels": signs})
        return Dataset.from_list(rows)

    def arguments(self, fixed: list[float] | None, **common: Any) -> DPOConfig:
        return DPOConfig(beta=BETA, max_length=LENGTH, **common)

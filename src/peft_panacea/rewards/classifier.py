"""A reward that a sequence-classification model gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .text import Completion, text_of

BATCH_SIZE = 32
"""Texts per forward pass of a `Classifier`."""


class Classifier:
    """Log-odds that a sequence-classification model gives to a label, in nats; of a model with one label, its logit.

    Of a model of `problem_type` "regression" it is the output for the label as it is, in the units of the labels that
    the model was trained on, such as stars from 1 to 5.

    Only the completion is read, cut off at the model's length. A text without any token scores 0: even odds, or the
    zero of the regression's units. A pickle holds the name, not the weights.

    Args:
        model_name_or_path: Hub name or folder of a sequence-classification model and its tokenizer.
        label: The label's name in the model's configuration; None if the model has only one.
        device: Where the model runs; None is CUDA where there is one.

    Raises:
        ValueError: weights are missing, such as the head of a language model, or the model has no such label.
    """

    def __init__(self, model_name_or_path: str, label: str | None = None, device: str | None = None) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.arguments = (model_name_or_path, label, device)
        model, info = AutoModelForSequenceClassification.from_pretrained(model_name_or_path, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(
                f"`model_name_or_path` must be a trained classifier, but got {model_name_or_path!r} without "
                f"{', '.join(sorted(info['missing_keys'])[:3])}."
            )
        labels = model.config.label2id
        if label not in labels and (label is not None or model.config.num_labels > 1):
            raise ValueError(f"`label` must be one of {', '.join(labels)}, but got {label!r}.")
        self.index = 0 if label is None else int(labels[label])
        self.model = model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer = AutoTokenizer.from_pretrained(model_name_or_path)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id  # pooling of the last token looks for it
        longest = self.tokenizer.model_max_length
        positions = getattr(model.config, "max_position_embeddings", longest) - _positions_before_text(model)
        self.tokenizer.model_max_length = min(longest, positions)
        name = Path(model_name_or_path).name
        self.__name__ = name if label is None else f"{name}_{label}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.arguments

    @torch.no_grad()
    def __call__(self, completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        texts = [text_of(completion) for completion in completions]
        rewards = [0.0] * len(texts)
        filled = [i for i, text in enumerate(texts) if self.tokenizer(text, truncation=True)["input_ids"]]
        for start in range(0, len(filled), BATCH_SIZE):
            rows = filled[start : start + BATCH_SIZE]
            inputs = self.tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True)
            log_odds = self._log_odds(self.model(**inputs.to(self.model.device)).logits.float())
            for i, value in zip(rows, log_odds.tolist(), strict=True):
                rewards[i] = value
        return rewards

    def _log_odds(self, logits: Tensor) -> Tensor:
        """Log-odds of the label, [B], from [B, labels]; only labels that exclude each other share a softmax."""
        chosen = logits[:, self.index]
        if logits.shape[1] == 1 or self.model.config.problem_type in ("multi_label_classification", "regression"):
            return chosen
        others = [i for i in range(logits.shape[1]) if i != self.index]
        return chosen - logits[:, others].logsumexp(dim=1)


def _positions_before_text(model: Any) -> int:
    """Positions that no token of a text has: models like RoBERTa count from behind the padding's."""
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    paddings = [getattr(table, "padding_idx", None) for table in tables]
    return max((padding + 1 for padding in paddings if padding is not None), default=0)

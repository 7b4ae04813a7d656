"""Classifiers made in code."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)


def save_classifier(folder: Path, *, architecture: str = "modernbert", **config: object) -> str:
    """A random classifier of the words `good`, `bad` and `so`; without special tokens."""
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3, "so": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]" if architecture != "llama" else None,
        eos_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )
    sizes = {"vocab_size": 5, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": 0, "bos_token_id": None}
    if architecture == "modernbert":
        ids = {"pad_token_id": 0, "cls_token_id": None, "sep_token_id": None, "classifier_pooling": "mean"}
        model = ModernBertForSequenceClassification(ModernBertConfig(**sizes, **ids, **config))
    elif architecture == "roberta":
        model = RobertaForSequenceClassification(RobertaConfig(**sizes, pad_token_id=0, **config))
    else:
        model = LlamaForSequenceClassification(LlamaConfig(**sizes, **config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)

"""Train a small reward model on two files of sentences, in less than a minute on one CPU core.

    python examples/data/reward_model.py --positive rt-polarity.pos --negative rt-polarity.neg --encoding latin-1

Prints the accuracy on sentences that were held out, and writes a folder that TRL's trainers take as a reward, as does
`peft_panacea.rewards.load_reward`. The reward is the logit: the log-odds that a text is positive.

By default the model is one ModernBERT layer over whole words, from scratch. It averages over the words instead of
reading a [CLS] token and has no table of positions, because TRL adds no special tokens and does not cut long texts.
`--model` starts from a pretrained model and its tokenizer instead.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

ONE_LOGIT = {"num_labels": 1, "problem_type": "multi_label_classification"}  # the loss is binary cross-entropy


@dataclass
class Arguments:
    positive: Path = field(metadata={"help": "text file, one sentence per line, of what to reward"})
    negative: Path = field(metadata={"help": "text file, one sentence per line, of the opposite"})
    encoding: str = field(default="utf-8", metadata={"help": "encoding of both files"})
    model: str | None = field(default=None, metadata={"help": "Hub name or path to start from, with its tokenizer"})
    output: Path = field(default=Path("runs/reward_model"), metadata={"help": "where to save the model"})
    epochs: float = field(default=2.0, metadata={"help": "passes over the training sentences"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak; about 2e-5 for a pretrained model"})
    seed: int = field(default=0, metadata={"help": "of the split and of the training"})


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose tokens are the texts' words and punctuation, lower-case; others are [UNK]."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=30_000, min_frequency=2, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    options = {"model_max_length": 512, "model_input_names": ["input_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", **options)


def small_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return an untrained model for the tokenizer's vocabulary."""
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        classifier_pooling="mean",
        **dict.fromkeys(["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"]),
        **dict.fromkeys(["hidden_size", "intermediate_size"], 128),
        **dict.fromkeys(["embedding_dropout", "mlp_dropout", "classifier_dropout"], 0.5),
        num_hidden_layers=1,
        num_attention_heads=2,
        **ONE_LOGIT,
    )
    return ModernBertForSequenceClassification(config)


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    files = ((args.positive, 1.0), (args.negative, 0.0))
    rows = [(line, y) for path, y in files for line in path.read_text(args.encoding).splitlines() if line.strip()]
    random.Random(args.seed).shuffle(rows)
    held_out = max(1, len(rows) // 10)
    test, train = rows[:held_out], rows[held_out:]
    if args.model is None:
        tokenizer = word_tokenizer([text for text, _ in train])
        model = small_model(tokenizer)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForSequenceClassification.from_pretrained(args.model, **ONE_LOGIT)

    def encode(rows: list[tuple[str, float]]) -> list[dict[str, list]]:
        return [{**tokenizer(text, truncation=True), "labels": [label]} for text, label in rows]

    options = TrainingArguments(
        output_dir=str(args.output),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=128,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=args.seed,
    )
    trainer = Trainer(model, options, train_dataset=encode(train), processing_class=tokenizer)
    trainer.train()
    prediction = trainer.predict(encode(test))
    accuracy = ((prediction.predictions > 0) == (prediction.label_ids > 0.5)).mean()
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"{len(train)} sentences to train on; accuracy on {len(test)} held out: {accuracy:.3f}")
    print(f"Wrote the reward model to {args.output}")


if __name__ == "__main__":
    main()

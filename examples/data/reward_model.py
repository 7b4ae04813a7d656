r"""Train a small reward model on labelled text; one CPU core is enough.

    python examples/data/reward_model.py --data labelled.jsonl --label toxic
    python examples/data/reward_model.py --positive rt-polarity.pos --negative rt-polarity.neg --encoding latin-1

Rows of `--data` have `text` and `y`. With `--label` the reward is the log-odds that `y` is this label, one of two or
of many; without it `y` is a number, and the reward predicts it, in standard deviations from its mean. Rows may say
`"split": "train"`, `"dev"` or `"test"`; otherwise a tenth is drawn for each of the latter. Neither is trained on:
compare flags by dev, and believe test, which nothing was chosen by. Both stand in `metrics.json` beside the model.

The folder is a reward for TRL's trainers and for `peft_panacea.rewards.load_reward`. By default the model is one
ModernBERT layer over whole words, from scratch. It averages over the words instead of reading a [CLS] token and has no
table of positions, because TRL adds no special tokens and does not cut long texts. `--model` starts from a pretrained
model and its tokenizer instead.
"""

import argparse
import gzip
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

Row = tuple[str, float]
"""A text, and 1.0 or 0.0 for whether it has the label, or a number."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small reward model on labelled text.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="JSON lines with `text` and `y`, perhaps gzipped")
    parser.add_argument("--task", help="of --data only the rows with this `task`")
    parser.add_argument("--label", help="the `y` that is rewarded; not given: `y` is a number to predict")
    parser.add_argument("--positive", type=Path, help="in place of --data: sentences to reward, one on every line")
    parser.add_argument("--negative", type=Path, help="the opposite")
    parser.add_argument("--encoding", default="utf-8", help="of these two files")
    parser.add_argument("--model", help="Hub name or path to start from, with its tokenizer")
    parser.add_argument("--output", type=Path, default=Path("runs/reward_model"), help="folder")
    parser.add_argument("--epochs", type=float, default=2.0, help="passes over the training texts")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="peak; about 2e-5 for a pretrained model")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    args = parser.parse_args()
    if (args.data is None) != bool(args.positive and args.negative):
        parser.error("either `--data` or both `--positive` and `--negative` must be given")
    return args


def read_rows(args: argparse.Namespace) -> dict[str, list[Row]]:
    """The rows for train, dev and test, shuffled."""
    rng = random.Random(args.seed)
    rows: list[tuple[str, float, str | None]] = []
    if args.data is None:
        for path, y in ((args.positive, 1.0), (args.negative, 0.0)):
            rows += [(line, y, None) for line in path.read_text(args.encoding).splitlines() if line.strip()]
    else:
        with (gzip.open if args.data.suffix == ".gz" else open)(args.data, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{args.data}, row {number}: must be JSON, but got: {error}.") from None
                if args.task is None or row.get("task") == args.task:
                    rows.append(parsed(row, args.label, f"{args.data}, row {number}:"))
    rng.shuffle(rows)
    parts: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    tenth = max(1, len(rows) // 10)
    for i, (text, y, split) in enumerate(rows):
        parts[split or ("test" if i < tenth else "dev" if i < 2 * tenth else "train")].append((text, y))
    for name, part in parts.items():
        if len({y for _, y in part}) < 2:
            found = f"{len(part)} of {len(rows)} rows, all alike" if part else f"none of {len(rows)} rows"
            raise ValueError(f"`y` must differ between the rows of every split, but {name} has {found}.")
    return parts


def parsed(row: Any, label: str | None, where: str) -> tuple[str, float, str | None]:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "y" not in row:
        raise ValueError(f"{where} must have `text` and `y`, but got {str(row)[:200]}.")
    if row.get("split") not in (None, "train", "dev", "test"):
        raise ValueError(f"{where} `split` must be train, dev or test, but got {row['split']!r}.")
    if label is not None:
        return row["text"], float(str(row["y"]) == label), row.get("split")
    if isinstance(row["y"], bool) or not isinstance(row["y"], int | float) or not math.isfinite(row["y"]):
        raise ValueError(f"{where} `y` must be a finite number unless `--label` is given, but got {row['y']!r}.")
    return row["text"], float(row["y"]), row.get("split")


def word_tokenizer(texts: list[str]) -> Any:
    """Return a tokenizer whose tokens are the texts' words and punctuation, lower-case; others are [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=30_000, min_frequency=2, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    options = {"model_max_length": 512, "model_input_names": ["input_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", **options)


def small_model(tokenizer: Any, **head: Any) -> Any:
    """Return an untrained model for the tokenizer's vocabulary."""
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

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
        **head,
    )
    return ModernBertForSequenceClassification(config)


def quality(predicted: Any, y: Any, is_label: bool) -> dict[str, float]:
    """How good predictions [N] are for labels or numbers [N], and what saying always the same would be."""
    from scipy.stats import mannwhitneyu, spearmanr

    if not is_label:
        return {"texts": len(y), "Spearman rho": float(spearmanr(predicted, y).statistic)}
    positive = y > 0.5
    pairs = positive.sum() * (~positive).sum()
    return {
        "texts": len(y),
        "accuracy": float(((predicted > 0) == positive).mean()),
        "accuracy of the commoner answer": float(max(positive.mean(), 1 - positive.mean())),
        "AUC": float(mannwhitneyu(predicted[positive], predicted[~positive]).statistic / pairs),
    }


def main() -> None:
    args = parse_arguments()
    try:
        parts = read_rows(args)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    # Imported here, so that what is wrong with the flags and `--help` need not wait for it.
    import numpy as np
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(args.seed)
    is_label = args.data is None or args.label is not None
    # One logit, and the loss is binary cross-entropy or the squared error.
    head = {"num_labels": 1, "problem_type": "multi_label_classification" if is_label else "regression"}
    if args.model is None:
        tokenizer = word_tokenizer([text for text, _ in parts["train"]])
        model = small_model(tokenizer, **head)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForSequenceClassification.from_pretrained(args.model, **head)
    trained_on = np.array([y for _, y in parts["train"]])
    mean, std = (0.0, 1.0) if is_label else (trained_on.mean(), trained_on.std())

    def encode(rows: list[Row]) -> list[dict[str, list]]:
        return [{**tokenizer(text, truncation=True), "labels": [float((y - mean) / std)]} for text, y in rows]

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
    trainer = Trainer(model, options, train_dataset=encode(parts["train"]), processing_class=tokenizer)
    trainer.train()
    metrics: dict[str, Any] = {"command": " ".join(sys.argv), "train": {"texts": len(parts["train"])}}
    for name in ("dev", "test"):
        prediction = trainer.predict(encode(parts[name]))
        metrics[name] = quality(prediction.predictions[:, 0], prediction.label_ids[:, 0], is_label)
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in metrics[name].items())}")
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    (args.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"Wrote the reward model and metrics.json to {args.output}")


if __name__ == "__main__":
    main()

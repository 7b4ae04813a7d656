"""Train the storyteller: a tiny Llama on stories that `grammar.py` draws afresh for every batch.

    python examples/storyteller/train.py

reproduces `model/` next to this file on one CPU core; it needs torch, transformers and tqdm, and no network.
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from math import log
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

# isort: split
from grammar import prompt, story

HELD_OUT_SEED = 1_000_003
TYPICAL_LENGTH = 64


def stories(seed: int) -> Iterator[str]:
    """Yield stories without end."""
    rng = random.Random(seed)
    while True:
        yield story(rng)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that puts `<s>` in front of a text and nothing behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int) -> LlamaForCausalLM:
    """Return an untrained Llama with tied embeddings for the tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def batches(texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, rows: int) -> Iterator[torch.Tensor]:
    """Yield right-padded token ids of whole stories with EOS; rows of a batch have similar lengths, to pad little."""
    rng = random.Random(0)
    while chunk := list(islice(texts, 16 * rows)):
        ids = sorted((tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in chunk), key=len)
        groups = [ids[i : i + rows] for i in range(0, len(ids), rows)]
        rng.shuffle(groups)
        for group in groups:
            batch = torch.full((len(group), max(map(len, group))), tokenizer.pad_token_id)
            for row, tokens in zip(batch, group, strict=True):
                row[: len(tokens)] = torch.tensor(tokens)
            yield batch


def loss(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy per token, BOS and padding excluded."""
    targets = batch.masked_fill(batch == model.config.pad_token_id, -100)
    return model(input_ids=batch, labels=targets).loss


def unigram_loss(train: Iterator[torch.Tensor], held_out: list[torch.Tensor], config: LlamaConfig) -> float:
    """Return the held-out cross-entropy per token of the token frequencies alone."""
    skip = (config.pad_token_id, config.bos_token_id)
    counts = Counter(token for batch in train for token in batch.flatten().tolist() if token not in skip)
    total = counts.total() + config.vocab_size
    tokens = [token for batch in held_out for token in batch.flatten().tolist() if token not in skip]
    return -sum(log((counts[token] + 1) / total) for token in tokens) / len(tokens)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, held_out: list[torch.Tensor]) -> float:
    """Return the held-out cross-entropy per token of the model."""
    sizes = [int((batch[:, 1:] != model.config.pad_token_id).sum()) for batch in held_out]
    return sum(loss(model, batch).item() * size for batch, size in zip(held_out, sizes, strict=True)) / sum(sizes)


def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: int, seed: int) -> list[str]:
    """Return stories which the model tells after openings of the grammar, drawn at temperature 1."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    inputs = tokenizer([prompt(rng) for _ in range(rows)], padding=True, return_tensors="pt")
    output = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=160)
    return tokenizer.batch_decode(output, skip_special_tokens=True)


def main() -> None:
    """Train, evaluate and save the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model", help="folder to write to")
    parser.add_argument("--steps", type=int, default=5500, help="number of optimizer steps (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=32, help="stories per step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="its peak (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=1024, help="size of the tokenizer (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=80, help="width of the model (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="depth of the model (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=5, help="attention heads per layer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of stories and weights (default: %(default)s)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(islice(stories(args.seed), 20_000), args.vocab_size)
    model = make_model(tokenizer, args.hidden, args.layers, args.heads)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    progress = tqdm(islice(batches(stories(args.seed), tokenizer, args.rows), args.steps), total=args.steps)
    for batch in progress:
        value = loss(model, batch)
        # Batches differ in length, and every token is to weigh the same.
        tokens = int((batch != tokenizer.pad_token_id).sum())
        (value * tokens / (args.rows * TYPICAL_LENGTH)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{value.item():.3f}", refresh=False)

    model.eval()
    held_out = list(batches(islice(stories(HELD_OUT_SEED), 2_000), tokenizer, args.rows))
    baseline = unigram_loss(islice(batches(stories(args.seed), tokenizer, args.rows), 320), held_out, model.config)
    print(f"held-out loss per token: {held_out_loss(model, held_out):.4f} (unigrams: {baseline:.4f})")
    for text in sample(model, tokenizer, 5, args.seed):
        print("-", text)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()

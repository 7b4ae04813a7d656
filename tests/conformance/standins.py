"""Tiny local models under the names of the Hub models that PEFT's tests load.

Saved below one folder that becomes the working directory, a name such as "peft-internal-testing/tiny-random-BertModel"
is a path to transformers and PEFT, so no test needs to know. The sizes follow the originals where a test depends on
them (PEFT picks ranks by the width of OPT's fc1, or counts the layers of opt-125m).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as tf

VOCAB = 128
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB}
LLAMA = {**TEXT, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
BERT = {**TEXT, "intermediate_size": 37, "max_position_embeddings": 64}
DEBERTA = {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _opt(layers: int, width: int, ffn: int) -> tf.PreTrainedConfig:
    return tf.OPTConfig(
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=ffn,
        num_hidden_layers=layers,
        num_attention_heads=4,
        vocab_size=VOCAB,
        max_position_embeddings=64,
        **{**SPECIAL, "pad_token_id": 1},
    )


def _gpt2() -> tf.PreTrainedConfig:
    return tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCAB, n_positions=64, **SPECIAL)


def _gemma3() -> tf.PreTrainedConfig:
    return tf.Gemma3TextConfig(**LLAMA, head_dim=8, sliding_window=16, **SPECIAL)


def _t5() -> tf.PreTrainedConfig:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "vocab_size": VOCAB}
    return tf.T5Config(**sizes, decoder_start_token_id=0, eos_token_id=2, pad_token_id=0)


def _bart() -> tf.PreTrainedConfig:
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _BART_SIDE.items()}
    return tf.BartConfig(d_model=16, vocab_size=VOCAB, max_position_embeddings=64, **sides, **SPECIAL)


_BART_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 4}

MODELS: dict[str, tuple[str, tf.PreTrainedConfig]] = {
    # decoders
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", _opt(5, 16, 4)),
    "peft-internal-testing/opt-125m": ("OPTForCausalLM", _opt(12, 64, 128)),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", _gpt2()),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", _gpt2()),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": (
        "GPTJForCausalLM",
        tf.GPTJConfig(n_embd=32, n_layer=5, n_head=4, rotary_dim=4, vocab_size=VOCAB, n_positions=64, **SPECIAL),
    ),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", tf.LlamaConfig(**LLAMA, **SPECIAL)),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("MistralForCausalLM", tf.MistralConfig(**LLAMA, **SPECIAL)),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", tf.Qwen2Config(**LLAMA, **SPECIAL)),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", _gemma3()),
    # encoder-decoders
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", _t5()),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": ("BartForConditionalGeneration", _bart()),
    # encoders
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", tf.BertConfig(**BERT)),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", tf.RobertaConfig(**BERT)),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", tf.DebertaConfig(**DEBERTA)),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2Model", tf.DebertaV2Config(**DEBERTA)),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification",
        tf.BertConfig(**BERT),
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        tf.RobertaConfig(**BERT),
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        tf.LlamaConfig(**LLAMA, **SPECIAL),
    ),
}


def build(folder: Path) -> None:
    """Save every model, and the one adapter that test_config loads, below `folder`."""
    for name, (model_class, config) in MODELS.items():
        torch.manual_seed(0)
        config.initializer_range = config.initializer_factor = 0.2  # outputs large enough to tell two adapters apart
        getattr(tf, model_class)(config).eval().save_pretrained(folder / name)
    adapter = folder / "peft-internal-testing" / "tiny-opt-lora-revision"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))

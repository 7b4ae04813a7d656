"""One model of each kind is steered, by one preference and by one for every row."""

import pytest
import torch
from peft import get_peft_model
from transformers import (
    BertConfig,
    BertModel,
    MixtralConfig,
    MixtralForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from conftest import randomise
from peft_panacea import PanaceaConfig

TEXT = {"input_ids": torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(0))}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}

MODELS = {
    "encoder": (lambda: BertModel(BertConfig(vocab_size=64, **SIZES)), TEXT),
    "mixture of experts": (
        lambda: MixtralForCausalLM(
            MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **SIZES)
        ),
        TEXT,
    ),
    "vision": (
        lambda: ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **SIZES)),
        {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))},
    ),
    "speech": (
        lambda: WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=64, num_mel_bins=8, max_source_positions=8, d_model=32, encoder_layers=2, decoder_layers=2,
                encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
                pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
            )
        ),
        {
            "input_features": torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0)),
            "decoder_input_ids": TEXT["input_ids"],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_is_steered(kind):
    build, inputs = MODELS[kind]
    model = randomise(get_peft_model(build(), PanaceaConfig(objectives=["a", "b"]))).eval()
    rows = [[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]]
    mixed = model(**inputs, preference=rows)[0]
    assert not torch.allclose(mixed, model(**inputs, preference=[0.5, 0.5])[0], atol=1e-3)
    for i, p in enumerate(rows):
        single = model(**{name: value[i : i + 1] for name, value in inputs.items()}, preference=p)[0]
        torch.testing.assert_close(mixed[i : i + 1], single, atol=1e-5, rtol=1e-5)

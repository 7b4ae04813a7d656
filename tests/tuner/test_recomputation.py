"""Gradient checkpointing recomputes under the preference of the forward."""

import copy

import pytest
import torch

from conftest import gpt2, llama, steered, t5
from peft_panacea.tuner.recomputation import stop_preserving_preference

ROWS = [[1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [0.5, 0.5]]


def gradient(model, tokens):
    """One backward through four forwards: rows, one preference by keyword, two by block, the last one left behind."""
    model.zero_grad()
    labels = tokens["input_ids"]
    losses = [model(**tokens, labels=labels, preference=p).loss for p in (ROWS, [1, 0])]
    for p in ([0, 1], ROWS):
        with model.preference(p):
            losses.append(model(**tokens, labels=labels).loss)
    model.set_preference([0.9, 0.1])
    sum(w * loss for w, loss in enumerate(losses, start=1)).backward()
    return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".panacea_svd." in n])


def trainable(build):
    model = steered(build()).train()
    model.enable_input_require_grads()
    return model


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("build", [llama, gpt2, t5])
@pytest.mark.mechanics
def test_gradient_equals_that_without_checkpointing(build, use_reentrant, tokens):
    model = trainable(build)
    expected = gradient(model, tokens)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    error = ((gradient(model, tokens) - expected).norm() / expected.norm()).item()
    print(f"gradient error under checkpointing, {build.__name__}, {use_reentrant=}: {error:.1g}")
    assert error <= 1e-5
    assert model.get_preference().tolist() == torch.tensor([0.9, 0.1]).tolist()


@pytest.mark.mechanics
def test_gradient_is_wrong_without_the_protection(tokens):
    """The test above can fail."""

    def two_preferences(model):
        losses = [model(**tokens, labels=tokens["input_ids"], preference=p).loss for p in ([1, 0], [0, 1])]
        model.zero_grad()
        sum(losses).backward()
        return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".panacea_svd." in n])

    model = trainable(llama)
    expected = two_preferences(model)
    stop_preserving_preference(model)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    error = ((two_preferences(model) - expected).norm() / expected.norm()).item()
    print(f"gradient error under checkpointing without the protection: {error:.1g}")
    assert error > 0.01


@pytest.mark.mechanics
def test_checkpointed_models_can_be_copied(tokens):
    model = trainable(llama)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    expected = gradient(model, tokens)
    model.zero_grad()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(gradient(twin, tokens), expected)

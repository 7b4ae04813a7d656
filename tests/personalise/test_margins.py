"""Margins are those of single forwards at the vertices; nothing of the model is changed by asking."""

import threading

import numpy as np
import pytest
import torch

from conftest import MLP, llama, steered, t5
from peft_panacea.completions import encode, log_probabilities
from peft_panacea.personalise import fit_margins, fit_preference, margins
from small_tokenizers import CHAT, word_tokenizer

TEXTS = [
    {"prompt": "w3 w4", "chosen": " w5 w6 w7", "rejected": " w8"},
    {"prompt": "w3 w4", "chosen": " w8", "rejected": " w9 w10"},
    {"prompt": "w20", "chosen": " w5 w6 w7", "rejected": " w8 w9 w3 w4"},
]
USER = {"role": "user", "content": "w12 w13"}
CHATS = [
    {"prompt": [USER], "chosen": "w5 w6", "rejected": "w7"},
    {"prompt": [USER, {"role": "assistant", "content": "w5"}, USER], "chosen": "w9", "rejected": "w7 w8"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(CHAT)


def adapted(**config):
    torch.manual_seed(0)
    return steered(llama(), task_type="CAUSAL_LM", **config)


def alone(model, tokenizer, pair):
    """The margins of one pair by a forward for every answer and vertex."""
    m = len(model.peft_config["default"].objectives)

    def score(answer, preference):
        batch = encode(tokenizer, [pair["prompt"]], [answer])
        with torch.no_grad():
            return log_probabilities(model, batch, preference).sum().item()

    with model.disable_adapter():
        base = score(pair["chosen"], None) - score(pair["rejected"], None)
    return [score(pair["chosen"], v) - score(pair["rejected"], v) - base for v in np.eye(m).tolist()]


@pytest.mark.parametrize("pairs", [TEXTS, CHATS], ids=["texts", "chats"])
@pytest.mark.parametrize("config", [{}, {"objectives": ["a", "b", "c"], "r": 0, "preference_rank": 2}])
def test_margins_are_those_of_each_answer_alone(tokenizer, pairs, config):
    model = adapted(**config)
    found = margins(model, pairs, tokenizer=tokenizer)
    np.testing.assert_allclose(found, [alone(model, tokenizer, pair) for pair in pairs], atol=1e-4)
    assert abs(found).max() > 0.01
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    np.testing.assert_allclose(margins(model, turned, tokenizer=tokenizer), -found, atol=1e-4)


def test_answers_may_be_messages(tokenizer):
    as_messages = [
        {**pair, **{key: [{"role": "assistant", "content": pair[key]}] for key in ("chosen", "rejected")}}
        for pair in CHATS
    ]
    model = adapted()
    found, expected = (margins(model, pairs, tokenizer=tokenizer) for pairs in (as_messages, CHATS))
    np.testing.assert_array_equal(found, expected)


def test_an_answer_is_scored_once(tokenizer, monkeypatch):
    model, rows = adapted(), []
    forward = model.base_model.model.forward
    monkeypatch.setattr(
        model.base_model.model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    margins(model, TEXTS, tokenizer=tokenizer)
    assert sum(rows) == 5 * (2 + 1), "five different answers, two vertices and the base model"


def test_bounds_are_for_the_preference_alone(tokenizer):
    bounded = adapted(preference_bounds={"a": (0.2, 0.4)}, default_preference=[0.3, 0.7])
    found = margins(bounded, TEXTS, tokenizer=tokenizer)
    np.testing.assert_allclose(found, margins(adapted(), TEXTS, tokenizer=tokenizer), atol=1e-6)
    fit = fit_preference(bounded, TEXTS, tokenizer=tokenizer)
    assert ((fit.preferences[:, 0] >= 0.2) & (fit.preferences[:, 0] <= 0.4)).all()
    bounded.set_preference(fit.preference)


def test_a_fit_is_the_fit_of_the_margins(tokenizer):
    model = adapted()
    fit = fit_preference(model, TEXTS, tokenizer=tokenizer, seed=3)
    expected = fit_margins(margins(model, TEXTS, tokenizer=tokenizer), ["a", "b"], seed=3)
    assert fit.objectives == ("a", "b")
    assert fit.preferences.tobytes() == expected.preferences.tobytes()


def test_the_model_is_left_as_it_is(tokenizer, monkeypatch):
    """Its mode, its preference, and the preference that other threads see meanwhile."""
    model = adapted().train()
    model.set_preference([0.3, 0.7])
    seen = []
    forward = model.base_model.model.forward

    def watched(**inputs):
        seen.append(model.get_preference().tolist())
        thread = threading.Thread(target=lambda: seen.append(model.get_preference().tolist()))
        thread.start()
        thread.join()
        return forward(**inputs)

    monkeypatch.setattr(model.base_model.model, "forward", watched)
    margins(model, TEXTS, tokenizer=tokenizer)
    default = pytest.approx([0.3, 0.7])
    assert seen == [default, default, [1, 0], default, [0, 1], default], "base model, then each vertex"
    assert model.training
    assert model.get_preference().tolist() == default


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, r"`pairs` must hold at least one, but got none"),
        (["w3"], TypeError, r"`pairs` must hold mappings with prompt, chosen, rejected, but got a str"),
        ([TEXTS[0], {"prompt": "w3"}], ValueError, r"row 1 lacks \['chosen', 'rejected'\]"),
        ([{**TEXTS[0], "chosen": [USER]}], TypeError, r"`completions` must be texts where prompts are"),
    ],
)
def test_pairs_that_cannot_be_asked(tokenizer, pairs, error, message):
    with pytest.raises(error, match=message):
        margins(adapted(), pairs, tokenizer=tokenizer)


def test_models_that_cannot_be_asked(tokenizer):
    merged, silent = adapted(), adapted()
    merged.merge_adapter()
    with torch.no_grad():
        silent.get_base_model().lm_head.weight.fill_(torch.nan)
    one = adapted(objectives=["only"])
    for model, error, message in [
        (MLP(), TypeError, r"`model` must be a `PeftModel` with a Panacea adapter, but got a MLP"),
        (one, ValueError, r"`model` must have at least 2 objectives to choose between, but got \['only'\]"),
        (merged, RuntimeError, r"`model` must not be merged, but it is"),
        (silent, ValueError, r"`model` must give every answer a finite log-probability"),
        (steered(t5(), task_type="SEQ_2_SEQ_LM"), ValueError, r"`model` must be decoder-only"),
    ]:
        with pytest.raises(error, match=message):
            margins(model, TEXTS, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"`tokenizer` must be given and have a padding token, but got None"):
        margins(adapted(), TEXTS, tokenizer=None)

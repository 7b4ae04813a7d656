"""Answers grow by a token at a time, each row under its own preference, and are those of `sample`."""

from itertools import pairwise

import pytest
import torch

from conftest import llama, steered
from peft_panacea.completions import sample
from peft_panacea.playground.answers import stream
from small_tokenizers import CHAT, word_tokenizer

PROMPT = "w10 w11 w12"
GRID = [[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]]


@pytest.fixture
def loud(model):
    """An adapter whose preference decides what is said."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".scale", ".sigma")) or ".scale." in name:
                parameter.mul_(20)
    return model


@pytest.fixture
def tokenizer():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def final(*arguments, **options):
    return list(stream(*arguments, **options))[-1]


@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_greedy_answers_are_those_of_sample(loud, tokenizer, template):
    tokenizer.chat_template = template
    prompt = PROMPT if template is None else [{"role": "user", "content": PROMPT}]
    expected = sample(loud, tokenizer, [prompt] * 3, preference=GRID, do_sample=False, max_new_tokens=12).texts
    assert final(loud, tokenizer, PROMPT, GRID, max_new_tokens=12) == expected
    assert len(set(expected)) > 1, "the preference says nothing"


def test_logits_that_are_nan_are_refused(model, tokenizer):
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="`model` must give numbers as logits, but gave nan for 3 rows"):
            final(model, tokenizer, PROMPT, GRID, temperature=temperature)


def test_they_grow(model, tokenizer):
    seen = [texts[0] for texts in stream(model, tokenizer, PROMPT, GRID[:1], max_new_tokens=8)]
    assert 1 <= len(seen) <= 8
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_row_is_what_it_is_alone(loud, tokenizer, temperature):
    options = {"temperature": temperature, "seed": 5, "max_new_tokens": 16}
    together = final(loud, tokenizer, PROMPT, GRID, **options)
    assert together == [final(loud, tokenizer, PROMPT, [one], **options)[0] for one in GRID]


def test_a_seed_belongs_to_the_answer(model, tokenizer):
    """Also where another answer is written in between, and whatever is drawn elsewhere."""
    options = {"temperature": 1.0, "max_new_tokens": 12}
    alone = [final(model, tokenizer, PROMPT, GRID[:1], seed=seed, **options) for seed in range(4)]
    assert len({text for (text,) in alone}) > 1
    running = [stream(model, tokenizer, PROMPT, GRID[:1], seed=seed, **options) for seed in range(4)]
    last = [None] * 4
    for _ in range(12):
        torch.rand(1)
        last = [next(one, before) for one, before in zip(running, last, strict=True)]
    assert last == alone


def test_temperature_samples_the_models_distribution(model, tokenizer):
    """A first token's frequencies over seeds, against the model's own probabilities."""
    seeds = 200
    texts = [
        next(stream(model, tokenizer, PROMPT, GRID[:1], temperature=0.7, seed=seed))[0].strip()
        for seed in range(seeds)
    ]
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        p = (model(input_ids=ids, preference=GRID[0]).logits[0, -1] / 0.7).softmax(-1)
    found = torch.zeros(64)
    for text in texts:
        found[tokenizer.convert_tokens_to_ids(text) if text else tokenizer.eos_token_id] += 1
    shown = list(range(3, 64))  # special tokens are not seen
    excess = ((found[shown] / seeds - p[shown]).abs() - 4 * (p[shown] / seeds).sqrt()).max()
    assert excess < 0


def test_nothing_runs_that_nobody_asks_for(model, tokenizer):
    calls = []
    model.get_base_model().register_forward_pre_hook(lambda *_: calls.append(1))
    running = stream(model, tokenizer, PROMPT, GRID[:1], max_new_tokens=50)
    next(running)
    running.close()
    assert len(calls) == 1


def test_the_models_preference_is_never_set(model, tokenizer):
    model.set_preference([0.9, 0.1])
    final(model, tokenizer, PROMPT, GRID, max_new_tokens=4)
    assert model.get_preference().tolist() == pytest.approx([0.9, 0.1])


def test_an_answer_ends_at_the_end_token(model, tokenizer):
    (first,) = next(stream(model, tokenizer, PROMPT, GRID[:1]))
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(first.strip())]
    assert list(stream(model, tokenizer, PROMPT, GRID[:1])) == [[""]]


def test_an_answer_ends_at_the_models_limit(tokenizer):
    model = steered(llama(max_position_embeddings=10), task_type="CAUSAL_LM")
    model.generation_config.eos_token_id = 64  # which there is not
    used = len(tokenizer(PROMPT)["input_ids"])
    assert len(list(stream(model, tokenizer, PROMPT, GRID[:1]))) == 10 - used
    with pytest.raises(ValueError, match="`prompt` must have fewer than 10 tokens, the model's limit, but got 13"):
        next(stream(model, tokenizer, f"{PROMPT} " * 4, GRID[:1]))


@pytest.mark.parametrize(
    ("prompt", "preference", "sentence"),
    [
        (" \n", [0.5, 0.5], "`prompt` must have some text, but got none"),
        (PROMPT, [0.5, 0.6], r"must have 2 non-negative entries that sum to 1, for a, b, but got \[0.5, 0.6\]"),
    ],
)
def test_mistakes(model, tokenizer, prompt, preference, sentence):
    with pytest.raises(ValueError, match=sentence):
        next(stream(model, tokenizer, prompt, [preference]))

"""Rows that leave a batch when they have ended change nothing for themselves and for the others."""

from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from conftest import gpt2, llama, steered
from peft_panacea.completions import decoding, log_probabilities, sample, sampling
from small_tokenizers import word_tokenizer

PROMPTS = [f"w{i}" + " w3" * (i % 5) for i in range(3, 27)]
WEIGHTS = np.linspace(0, 1, len(PROMPTS))
PER_ROW = np.stack([WEIGHTS, 1 - WEIGHTS], axis=1)
ENDS = [2, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41]  # so that rows end at different steps


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def model():
    return steered(llama(), task_type="CAUSAL_LM")


def mistral():
    """Its cache is a window of 4 tokens."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 2}
    return MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=4)).eval()


def bloom():
    return BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0)).eval()


def mamba():
    """Has a state in place of a cache."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "pad_token_id": 0}
    return MambaForCausalLM(MambaConfig(**sizes, eos_token_id=2)).eval()


def sizes_of_batches(model):
    """A list to which every forward of the model appends how many rows it has."""
    sizes = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    return sizes


def by_transformers(monkeypatch):
    monkeypatch.setattr(sampling, "decodes_alike", lambda *_: False)


OPTIONS = {
    "plain": {},
    "sampling": {"do_sample": True, "temperature": 1e-6, "top_k": 5, "top_p": 0.9},  # as good as greedy
    "minimum": {"min_new_tokens": 4},
    "n-grams": {"no_repeat_ngram_size": 2, "suppress_tokens": [9, 10]},
    "config": {"generation_config": GenerationConfig(max_new_tokens=16, eos_token_id=ENDS)},
    "penalty": {"repetition_penalty": 1.5},
    "processor": {"logits_processor": LogitsProcessorList([lambda ids, scores: scores.roll(1, 0)])},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_completions_are_those_of_transformers(name, model, tokenizer, monkeypatch):
    """Token for token where nothing is drawn, with every option."""
    options = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": ENDS, **OPTIONS[name]}
    if name == "config":
        options = OPTIONS[name]
    sizes = sizes_of_batches(model)
    ours = sample(model, tokenizer, PROMPTS, PER_ROW, **options)
    if name in ("penalty", "processor"):
        assert set(sizes) == {len(PROMPTS)}, "these look at the whole batch, or are not known"
        assert ours.log_probabilities is None
    else:
        assert len(set(sizes)) > 4, "rows must leave"
        assert sizes == sorted(sizes, reverse=True)
    by_transformers(monkeypatch)
    sizes.clear()
    theirs = sample(model, tokenizer, PROMPTS, PER_ROW, **options)
    assert set(sizes) == {len(PROMPTS)}
    assert ours.token_ids == theirs.token_ids
    assert ours.texts == theirs.texts
    assert torch.equal(ours.ids, theirs.ids)
    assert len({len(tokens) for tokens in ours.token_ids}) > 3


@pytest.mark.parametrize("make", [llama, gpt2, bloom, mistral, mamba], ids=lambda make: make.__name__)
def test_of_any_architecture(make, tokenizer, monkeypatch):
    """Rows leave a cache of keys and values, also of a sliding window; of a state they do not."""
    model = make() if make is mamba else steered(make(), task_type="CAUSAL_LM")
    ask = partial(sample, model, tokenizer, PROMPTS, None if make is mamba else PER_ROW)
    sizes = sizes_of_batches(model)
    ours = ask(do_sample=False, max_new_tokens=16, eos_token_id=ENDS)
    assert (len(set(sizes)) > 1) == (make is not mamba)
    by_transformers(monkeypatch)
    assert ours.token_ids == ask(do_sample=False, max_new_tokens=16, eos_token_id=ENDS).token_ids
    assert len({len(tokens) for tokens in ours.token_ids}) > (make is not mamba)


def test_preferences_leave_with_their_rows(model, tokenizer, monkeypatch):
    """Wherever they come from; afterwards they are what they were."""
    ask = partial(sample, model, tokenizer, PROMPTS, do_sample=False, max_new_tokens=16, eos_token_id=ENDS)
    expected = ask(PER_ROW).token_ids
    model.set_preference(PER_ROW)
    assert ask().token_ids == expected
    assert torch.equal(model.get_preference(), torch.tensor(PER_ROW, dtype=torch.float32))
    model.set_preference([1.0, 0.0])
    assert ask().token_ids != expected
    with model.preference(PER_ROW):
        assert ask().token_ids == expected
        assert len(model.get_preference()) == len(PROMPTS)
    model.set_preference(PER_ROW[:3])  # of another batch
    with model.disable_adapter():
        of_base = ask().token_ids
    assert of_base != expected
    by_transformers(monkeypatch)
    with model.disable_adapter():
        assert ask().token_ids == of_base


def test_draws_do_not_depend_on_who_has_left(model, tokenizer, monkeypatch):
    def drawn():
        torch.manual_seed(3)
        return sample(model, tokenizer, PROMPTS, PER_ROW, max_new_tokens=16, eos_token_id=ENDS)

    sizes = sizes_of_batches(model)
    leaving = drawn()
    assert len(set(sizes)) > 4
    assert drawn().token_ids == leaving.token_ids
    sizes.clear()
    monkeypatch.setattr(decoding, "_can_lose_rows", lambda *_: False)
    staying = drawn()
    assert set(sizes) == {len(PROMPTS)}
    assert staying.token_ids == leaving.token_ids
    torch.testing.assert_close(staying.log_probabilities, leaving.log_probabilities, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 12}, {"top_p": 0.8}], ids=str)
def test_tokens_are_as_frequent_as_they_are_likely(options, model, tokenizer):
    """The second of two, the first of which ends some rows; by the exact distribution of what the options leave."""
    n, ends, seconds = 6000, list(range(3, 34)), {}
    given = {"max_new_tokens": 2, "eos_token_id": ends, "suppress_tokens": [0], **options}  # 0 is padding
    batch = sample(model, tokenizer, ["w3 w40"] * n, np.repeat([[0.3, 0.7]], n, axis=0), **given)
    for first, *rest in batch.token_ids:
        assert len(rest) == (first not in ends)
        if rest:
            seconds.setdefault(first, []).extend(rest)
    assert n / 4 < sum(map(len, seconds.values())) < 3 * n / 4
    draws, expected = torch.zeros(64), torch.zeros(64)
    for first, tokens in seconds.items():
        ids = torch.tensor([[*tokenizer("w3 w40")["input_ids"], first]])
        with torch.no_grad():
            logits = model(ids, preference=[0.3, 0.7]).logits[0, -1] / options.get("temperature", 1.0)
        logits[0] = -torch.inf
        p, order = logits.softmax(-1).sort(descending=True)
        p[(p.cumsum(0) - p >= options.get("top_p", 1.0)) | (torch.arange(64) >= options.get("top_k", 64))] = 0
        expected[order] += len(tokens) * p / p.sum()
        draws += torch.tensor(tokens).bincount(minlength=64)
    assert not draws[expected == 0].any()
    often = expected > 5
    chi_squared, of = ((draws - expected) ** 2 / expected)[often].sum().item(), int(often.sum())
    assert of > 30
    assert abs(chi_squared - of) < 4 * (2 * of) ** 0.5


def test_a_draw_is_the_inverse_of_the_distribution():
    scores = torch.tensor([[0.1, 0.0, 0.6, 0.3, 0.0]]).log().expand(6, 5)
    uniform = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 2**-53], dtype=torch.float64)
    assert decoding.draw(scores, uniform[:, None]).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": False}, {"temperature": 0.5, "top_p": 0.9, "suppress_tokens": [5]}], ids=str
)
def test_log_probabilities_are_the_models_own(options, model, tokenizer):
    """Of the unmodified model, whatever modified the sampling."""
    batch = sample(model, tokenizer, PROMPTS, PER_ROW, max_new_tokens=16, eos_token_id=ENDS, **options)
    assert batch.log_probabilities.dtype == torch.float32
    with torch.no_grad():
        again = log_probabilities(model, batch, PER_ROW)
    torch.testing.assert_close(batch.log_probabilities, again, atol=1e-4, rtol=1e-4)
    assert not batch.log_probabilities[~batch.completion].any()


def test_what_is_not_known_is_left_to_transformers(model):
    alike = partial(decoding.decodes_alike, model)
    assert alike({"temperature": 0.7, "num_beams": 1, "repetition_penalty": 1.0, "stop_strings": None})
    for unknown in (
        {"num_beams": 2},
        {"repetition_penalty": 1.1},
        {"stopping_criteria": []},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"generation_config": GenerationConfig(penalty_alpha=0.6)},
    ):
        assert not alike(unknown)
    assert alike({"synced_gpus": True}), "other processes may be waited for"
    model.generation_config.guidance_scale = 2.0
    assert not alike({})
    assert alike({"guidance_scale": None})
    lora = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM"))
    assert not decoding.decodes_alike(lora, {}), "the rows of other adapters are not known to be alike"
    assert decoding.decodes_alike(llama(), {})


@pytest.mark.parametrize("do_sample", [False, True])
def test_logits_that_are_nan_are_refused(model, tokenizer, do_sample):
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="`model` must give numbers as logits, but gave nan for 2 rows"):
        sample(model, tokenizer, PROMPTS[:2], max_new_tokens=4, do_sample=do_sample)

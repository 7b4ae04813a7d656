"""Completions in a padded batch are those of every row alone, and so are the log-probabilities of their tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from conftest import gpt2, llama, steered, t5
from peft_panacea.completions import (
    encode,
    generation_options,
    likelihood,
    log_probabilities,
    log_probabilities_by_length,
    sample,
    tokenize,
)
from small_tokenizers import CHAT, WORDS, word_tokenizer

STORYTELLER = Path(__file__).resolve().parent.parent / "examples" / "storyteller" / "model"
PROMPTS = ["w3 w4 w5", "w6", "w7 w8 w9 w10 w11", "w12 w13", "w14 w15 w16 w17"]
PER_ROW = np.array([[0.0, 1.0], [0.3, 0.7], [1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
GREEDY = {"do_sample": False, "max_new_tokens": 6}
VARIED = {"max_new_tokens": 24, "suppress_tokens": [0, 1]}  # some completions end early


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def chat_tokenizer():
    return word_tokenizer(CHAT)


@pytest.fixture
def model():
    return steered(llama(), task_type="CAUSAL_LM")


def bloom():
    """Takes neither `position_ids` nor every other option of a forward."""
    return BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0)).eval()


def lora():
    return get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).eval()


def one_by_one(model, completions, preference=None):
    """The log-probability of every token by a forward of its own row up to there, without padding."""
    P = completions.ids.shape[1] - completions.completion.shape[1]
    found = torch.zeros(completions.completion.shape)
    for i, tokens in enumerate(completions.token_ids):
        before = completions.ids[i, :P][completions.mask[i, :P].bool()].tolist()
        options = {} if preference is None else {"preference": preference[i]}
        for t, token in enumerate(tokens):
            with torch.no_grad():
                logits = model(torch.tensor([before + tokens[:t]]), **options).logits
            found[i, t] = logits[0, -1].log_softmax(-1)[token]
    return found


# Sampling


@pytest.mark.parametrize("make", [llama, gpt2, bloom, lora], ids=lambda make: make.__name__)
def test_a_batch_of_any_model_is_completed_as_each_prompt_alone(make, tokenizer):
    model = make()
    together = sample(model, tokenizer, PROMPTS, **GREEDY)
    for i, prompt in enumerate(PROMPTS):
        alone = sample(model, tokenizer, [prompt], **GREEDY)
        assert (alone.texts, alone.token_ids) == ([together.texts[i]], [together.token_ids[i]])
    assert len(set(together.texts)) > 1


def test_a_row_is_completed_under_its_own_preference(model, tokenizer):
    together = sample(model, tokenizer, PROMPTS, PER_ROW, **GREEDY)
    alone = [
        sample(model, tokenizer, [p], weights, **GREEDY).texts[0]
        for p, weights in zip(PROMPTS, PER_ROW.tolist(), strict=True)
    ]
    assert together.texts == alone
    assert sample(model, tokenizer, PROMPTS, PER_ROW[::-1].copy(), **GREEDY).texts != alone
    model.set_preference([1, 0])
    same = sample(model, tokenizer, PROMPTS, [1, 0], **GREEDY)
    assert sample(model, tokenizer, PROMPTS, **GREEDY).texts == same.texts, "without one, the current preference holds"


def test_what_a_batch_holds(model, tokenizer):
    batch = sample(model, tokenizer, PROMPTS, PER_ROW, **VARIED)
    P, T = 6, batch.completion.shape[1]
    assert batch.ids.shape == batch.mask.shape == (5, P + T)
    lengths = [len(tokens) for tokens in batch.token_ids]
    assert len(set(lengths)) > 1, "some completions must end early"
    assert set(batch.ended) == {True, False}, "and some be cut off"
    for i, (prompt, tokens) in enumerate(zip(PROMPTS, batch.token_ids, strict=True)):
        before = tokenize(tokenizer, prompt)
        assert batch.ids[i][batch.mask[i].bool()].tolist() == before + tokens
        assert batch.mask[i].tolist() == [0] * (P - len(before)) + [1] * (len(before) + len(tokens)) + [0] * (
            T - len(tokens)
        )
        assert batch.completion[i].tolist() == [t < len(tokens) for t in range(T)]
        assert tokens[-1] == 2 or len(tokens) == T == 24
        assert batch.ended[i] == (tokens[-1] == 2)
        assert batch.texts[i].split() == [f"w{token}" for token in tokens if token != 2]


def test_a_conversation_is_completed_as_the_template_says(model, tokenizer, chat_tokenizer):
    """With the template's special tokens and no others."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    assert [tokenize(tokenizer, chat) for chat in chats] == [tokenize(tokenizer, prompt) for prompt in PROMPTS]
    assert sample(model, tokenizer, chats, **GREEDY).texts == sample(model, tokenizer, PROMPTS, **GREEDY).texts
    assert tokenize(chat_tokenizer, chats[0]) == [1, 60, 3, 4, 5, 2, 62, 1, 61]


def test_a_text_keeps_its_leading_space():
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER)
    model = AutoModelForCausalLM.from_pretrained(STORYTELLER)
    prompts = ["One morning Zoe the sheep was by the mill.", "There was once a fox."]
    batch = sample(model, tokenizer, prompts, **GREEDY)
    for row, mask, prompt, text in zip(batch.ids, batch.mask, prompts, batch.texts, strict=True):
        assert text.startswith(" ")
        assert tokenizer.decode(row[mask.bool()], skip_special_tokens=True) == prompt + text


def test_what_ends_a_completion(model, tokenizer):
    """An end token, one of several, or a stop that is no token; what follows is no part of it."""

    def answer(**options):
        batch = sample(model, tokenizer, PROMPTS, [0.0, 1.0], **GREEDY, **options)
        assert [text.split() for text in batch.texts] == [[f"w{t}" for t in row if t > 2] for row in batch.token_ids]
        ended.append(batch.ended)
        return batch.texts

    ended = []

    words = [text.split() for text in answer(eos_token_id=1)]
    end = words[0][2]
    expected = [row[: row.index(end) + 1] if end in row else row for row in words]
    assert len({len(row) for row in expected}) > 1, "not all may end there"
    first = answer(eos_token_id=WORDS[end])
    assert [text.split() for text in first] == expected
    assert answer(eos_token_id=[WORDS[end], 1]) == first
    assert answer(eos_token_id=1, stopping_criteria=[lambda ids, scores, **_: ids[:, -1] == WORDS[end]]) == first
    model.generation_config.eos_token_id = WORDS[end]
    assert answer() == first
    at_end = [end in row for row in words]
    assert ended == [[False] * 5, at_end, at_end, [False] * 5, at_end], "only a token is an end token"


def test_a_string_ends_a_completion():
    """In the options or in a generation config; it stays in the text."""
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER)
    model = AutoModelForCausalLM.from_pretrained(STORYTELLER)
    prompts = ["One morning Zoe the sheep was by the mill.", "There was once a fox."]
    whole = sample(model, tokenizer, prompts, do_sample=False)
    batch = sample(model, tokenizer, prompts, do_sample=False, stop_strings=["."])
    assert batch.texts == [text[: text.index(".") + 1] for text in whole.texts]
    assert all(len(short) < len(long) for short, long in zip(batch.token_ids, whole.token_ids, strict=True))
    config = GenerationConfig(do_sample=False, max_new_tokens=64, stop_strings=["."])
    assert sample(model, tokenizer, prompts, generation_config=config).texts == batch.texts


def test_the_models_own_distribution_is_sampled(model, tokenizer):
    """Whatever the generation config says, unless it is asked for."""

    def texts(**options):
        torch.manual_seed(1)
        return sample(model, tokenizer, PROMPTS, max_new_tokens=8, **options).texts

    plain = texts()
    config = model.generation_config
    config.temperature, config.top_k, config.top_p, config.repetition_penalty, config.min_p = 0.1, 3, 0.5, 3.0, 0.5
    config.no_repeat_ngram_size, config.typical_p, config.do_sample = 1, 0.5, True
    assert texts() == plain
    assert texts(temperature=0.1) != plain
    config = object()
    assert generation_options(generation_config=config) == {"generation_config": config}
    assert "temperature" not in generation_options(do_sample=False)


def test_modes_are_left_alone(model, tokenizer):
    model.train()
    model.base_model.model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    seen = []
    model.get_base_model().lm_head.register_forward_hook(lambda module, *_: seen.append(module.training))
    batch = sample(model, tokenizer, PROMPTS, **GREEDY)
    assert set(seen) == {False}
    assert [module.training for module in model.modules()] == modes
    log_probabilities(model, batch)
    assert seen[-1], "a training step asks in training mode"
    with pytest.raises(ValueError, match="row 0 must have 2"):
        sample(model, tokenizer, PROMPTS, [[1.0, 1.0]], **GREEDY)
    assert [module.training for module in model.modules()] == modes


# Log-probabilities


@pytest.mark.parametrize("make", [llama, gpt2, bloom, lora], ids=lambda make: make.__name__)
def test_log_probabilities_of_any_model_are_those_of_each_token_alone(make, tokenizer):
    model = make()
    batch = sample(model, tokenizer, PROMPTS * 2, **VARIED)
    torch.testing.assert_close(log_probabilities(model, batch), one_by_one(model, batch), atol=1e-4, rtol=1e-4)


def test_log_probabilities_are_under_the_preference_of_the_row(model, tokenizer):
    batch = sample(model, tokenizer, PROMPTS, PER_ROW, **VARIED)
    found = log_probabilities(model, batch, PER_ROW)
    torch.testing.assert_close(found, one_by_one(model, batch, PER_ROW.tolist()), atol=1e-4, rtol=1e-4)
    assert found.dtype == torch.float32
    assert not found[~batch.completion].any()
    assert (found - log_probabilities(model, batch, PER_ROW[::-1].copy())).abs().max() > 0.01


def test_gradients_flow(model, tokenizer):
    batch = sample(model, tokenizer, PROMPTS, PER_ROW, **GREEDY)
    log_probabilities(model, batch, PER_ROW).sum().backward()
    assert any(
        p.grad.abs().max() > 0 for name, p in model.named_parameters() if name.endswith("panacea_svd.default.U")
    )


def test_only_the_logits_that_are_needed_are_computed(model, tokenizer):
    batch, seen = encode(tokenizer, ["w3 " * 40], ["w4 w5"]), []
    model.get_base_model().lm_head.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].shape[1]))
    log_probabilities(model, batch)
    assert seen == [4], "two words, the end token, and what stands before them"


def test_rows_of_like_length_are_asked_together(model, tokenizer, monkeypatch):
    """Which leaves padding out and changes no number."""
    monkeypatch.setattr(likelihood, "ROWS", 2)
    batch, computed = sample(model, tokenizer, PROMPTS, PER_ROW, **VARIED), []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, _: computed.append(inputs[0].shape))
    whole = log_probabilities(model, batch)
    by_length = log_probabilities_by_length(model, batch)
    torch.testing.assert_close(by_length, whole, atol=1e-5, rtol=1e-5)
    assert [rows for rows, _ in computed[1:]] == [2, 2, 1]
    assert sum(shape.numel() for shape in computed[1:]) < computed[0].numel()
    few = batch.select(torch.tensor([3, 1]))
    assert few.ended == [batch.ended[3], batch.ended[1]]
    assert few.texts == [batch.texts[3], batch.texts[1]]
    assert few.token_ids == [batch.token_ids[3], batch.token_ids[1]]
    assert [few.ids[i][few.mask[i].bool()].tolist() for i in range(2)] == [
        batch.ids[i][batch.mask[i].bool()].tolist() for i in (3, 1)
    ]


# Completions that are given


@pytest.mark.parametrize("chat", [False, True], ids=["texts", "conversations"])
def test_what_was_sampled_is_encoded_as_it_was(model, tokenizer, chat_tokenizer, chat):
    prompts = [[{"role": "user", "content": p}] for p in PROMPTS] if chat else PROMPTS
    tokens_of = chat_tokenizer if chat else tokenizer
    sampled = sample(model, tokens_of, prompts, PER_ROW, **VARIED)
    given = encode(tokens_of, prompts, sampled.texts)
    assert given.texts == sampled.texts
    for i, tokens in enumerate(sampled.token_ids):
        assert given.token_ids[i] == tokens + [2] * (tokens[-1] != 2)
    unended = encode(tokens_of, prompts, sampled.texts, end=False)
    assert (given.ended, unended.ended) == ([True] * 5, [False] * 5)
    assert unended.token_ids == [[token for token in tokens if token != 2] for tokens in sampled.token_ids]
    n = unended.completion.shape[1]
    found, expected = (log_probabilities(model, batch, PER_ROW) for batch in (unended, sampled))
    torch.testing.assert_close(found, expected[:, :n] * unended.completion, atol=1e-4, rtol=1e-4)


def test_messages_are_completions_of_conversations(chat_tokenizer):
    chat = [[{"role": "user", "content": "w3"}]]
    as_text = encode(chat_tokenizer, chat, ["w4 w5"])
    as_messages = encode(chat_tokenizer, chat, [[{"role": "assistant", "content": "w4 w5"}]])
    assert as_text.token_ids == as_messages.token_ids == [[4, 5, 2]]
    assert as_text.ids[0].tolist() == [1, 60, 3, 2, 62, 1, 61, 4, 5, 2]


def test_a_template_without_end_tokens_has_none(tokenizer):
    chat = [[{"role": "user", "content": "w3"}]]
    assert encode(tokenizer, chat, ["w4"]).token_ids == [[1, 4]], "the template puts [BOS] before every message"


def test_max_length_cuts_the_end_off(tokenizer):
    batch = encode(tokenizer, ["w3 w4 w5", "w6", "w7 w8 w9 w10"], [" w20 w21", " w22", " w23"], max_length=4)
    assert batch.mask.sum(1).tolist() == [4, 4, 4]
    assert batch.token_ids == [[], [22, 2], []]
    assert batch.ended == [False, True, False]
    assert [text.split() for text in batch.texts] == [[], ["w22"], []]
    assert log_probabilities(llama(), batch).shape == (3, 2)
    nothing = encode(tokenizer, ["w3 w4 w5"], [" w20"], max_length=3)
    assert log_probabilities(llama(), nothing).shape == (1, 0)


def test_a_token_across_the_border_is_the_completions():
    """The prompt alone ends in a token that the whole text does not have."""
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER)
    alone, whole = tokenizer("There was once a f")["input_ids"], tokenizer("There was once a fox.")["input_ids"]
    assert whole[: len(alone)] != alone
    batch = encode(tokenizer, ["There was once a f"], ["ox."], end=False)
    assert batch.ids[0].tolist() == whole
    assert 0 < len(batch.token_ids[0]) < len(whole)
    first = encode(tokenizer, ["T"], ["here was"], end=False)
    assert first.ids[0].tolist() == tokenizer("There was")["input_ids"]


# What is refused


def test_what_is_refused(tokenizer):
    bare = Tokenizer(models.WordLevel(WORDS, unk_token="[EOS]"))
    with pytest.raises(ValueError, match="`model` must be decoder-only, but got an encoder-decoder"):
        sample(t5(), tokenizer, PROMPTS)
    with pytest.raises(ValueError, match="`tokenizer` must be given and have a padding token, but got None"):
        sample(llama(), None, PROMPTS)
    without = word_tokenizer(bos_token="[BOS]")
    with pytest.raises(ValueError, match=r"but got one without; set `tokenizer.pad_token = tokenizer.eos_token`"):
        encode(without, PROMPTS, PROMPTS)
    without.pad_token = "[PAD]"
    with pytest.raises(ValueError, match="`prompt` must have at least one token, but got ''"):
        sample(llama(), PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="[PAD]"), ["w3", ""])
    with pytest.raises(ValueError, match="`tokenizer` must have an end token, or `end` be False, but got one without"):
        encode(without, PROMPTS, PROMPTS)
    assert encode(without, ["w3"], [" w4"], end=False).token_ids == [[4]]
    with pytest.raises(ValueError, match="one row of tokens for each of 5 prompts, but `generate` returned 10"):
        sample(llama(), tokenizer, PROMPTS, num_return_sequences=2, max_new_tokens=2)
    with pytest.raises(ValueError, match="a GenerateDecoderOnlyOutput"):
        sample(llama(), tokenizer, PROMPTS, return_dict_in_generate=True, max_new_tokens=2)
    with pytest.raises(ValueError, match="`completions` must be 5, one for each prompt, but got 4"):
        encode(tokenizer, PROMPTS, PROMPTS[1:])
    with pytest.raises(ValueError, match="`prompts` must hold at least one, but got none"):
        sample(llama(), tokenizer, [])
    with pytest.raises(TypeError, match=r"`completions` must be texts where prompts are, but got \[\{"):
        encode(tokenizer, ["w3"], [[{"role": "assistant", "content": "w4"}]])
    with pytest.raises(ValueError, match="`prompts` must hold at least one, but got none"):
        encode(tokenizer, [], [])

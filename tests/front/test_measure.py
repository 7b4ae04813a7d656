"""Measuring a front: what is asked of the model, what is counted, and that stopping makes no difference."""

import itertools
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import GenerationConfig

from conftest import llama, randomise, steered, t5
from peft_panacea import PanaceaConfig
from peft_panacea.completions import sample
from peft_panacea.front import Front, evaluate_base, evaluate_front
from peft_panacea.front.answers import SteeredModel
from peft_panacea.rewards import Brevity, conciseness, dialogue_share, length, sentence_length
from peft_panacea.simplex import simplex_grid
from small_tokenizers import word_tokenizer

PROMPTS = ["w3 w4 w5", "w6", "w7 w8 w9 w10 w11", "w12 w13", "w14 w15 w16 w17"]
GRID = [[0.0, 1.0], [0.3, 0.7], [1.0, 0.0]]
TEXT = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def said(completion):
    """The text of a completion, as a text or as the one message after a conversation."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def numbers_in(completions, prompts, **_):
    return [float(sum(int(w[1:]) for w in said(c).split() if w[1:].isdigit())) for c in completions]


def brief(completions, **_):
    return [-float(len(said(c).split())) for c in completions]


REWARDS = {"a": numbers_in, "b": brief}


def echo(prompts, preferences):
    """A function as a model: says the preference, and so many words that rewards differ; draws from torch."""
    drawn = torch.randint(0, 100, (len(prompts),)).tolist()
    weights = [["base"] * 2] * len(prompts) if preferences is None else preferences.tolist()
    return [f"{p} said {w[0]} w{d}" for p, w, d in zip(prompts, weights, drawn, strict=True)]


def same(one: Front, other: Front) -> None:
    """Every number and every detail, exactly."""
    assert np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.base, other.base)
    assert np.array_equal(one.normalisation, other.normalisation)
    for name in ("side_effects", "base_side_effects"):
        first, second = getattr(one, name), getattr(other, name)
        assert list(first) == list(second)
        assert all(np.array_equal(first[effect], second[effect]) for effect in first)
    assert one.details == other.details


# Which completions are asked for


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_a_function_sees_the_product_of_preferences_prompts_and_samples(batch_size):
    seen, sizes = Counter(), []

    def model(prompts, preferences):
        sizes.append(len(prompts))
        rows = [None] * len(prompts) if preferences is None else map(tuple, preferences.tolist())
        seen.update(zip(prompts, rows, strict=True))
        return ["x"] * len(prompts)

    evaluate_front(model, PROMPTS, REWARDS, simplex_grid(2, 5), samples=2, batch_size=batch_size)
    weights = [(i / 5, 1 - i / 5) for i in range(6)]
    rounded = {(p, w and tuple(round(x, 7) for x in w)) for p, w in itertools.product(PROMPTS, [None, *weights])}
    assert seen == dict.fromkeys(rounded, 2)
    assert max(sizes) == min(batch_size, len(PROMPTS) * 6 * 2)


def test_float32_preferences_are_stored_without_noise():
    front = evaluate_front(echo, PROMPTS, REWARDS, simplex_grid(2, 5))
    assert front.preferences.tolist() == [[0, 1], [0.2, 0.8], [0.4, 0.6], [0.6, 0.4], [0.8, 0.2], [1, 0]]
    assert Front(["a", "b"], torch.tensor([[0.4, 0.6]]), [[[1, 2]]]).preferences.tolist() == [[0.4, 0.6]]


def test_prompts_of_like_length_are_together(tokenizer):
    """In tokens for a model, in characters for a function; the longest first."""
    prompts, batches = ["w3 w4 w5", "w1000000000000", "w6 w7"], []
    assert SteeredModel(steered(llama(), task_type="CAUSAL_LM"), tokenizer, {}).lengths(prompts) == [4, 2, 3]

    def model(prompts, preferences):
        batches.append(prompts)
        return prompts

    evaluate_front(model, prompts, REWARDS, GRID, batch_size=3, base=False)
    assert batches == [[p] * 3 for p in ("w1000000000000", "w3 w4 w5", "w6 w7")]


def test_scores_are_those_of_their_completions():
    """Each cell is the mean over the samples of its own preference and prompt, by a slow loop over what was said."""
    said: dict[tuple, list[str]] = {}

    def model(prompts, preferences):
        texts = echo(prompts, preferences)
        rows = [("base",)] * len(prompts) if preferences is None else map(tuple, preferences.tolist())
        for key, text in zip(zip(rows, prompts, strict=True), texts, strict=True):
            said.setdefault(key, []).append(text)
        return texts

    front = evaluate_front(model, PROMPTS, REWARDS, GRID, samples=3, batch_size=4)
    for (i, reward), (p, prompt) in itertools.product(enumerate(REWARDS.values()), enumerate(PROMPTS)):
        for k, weights in enumerate(GRID):
            texts = said[tuple(weights), prompt]
            assert len(texts) == 3
            assert front.scores[k, p, i] == pytest.approx(np.mean(reward(texts, prompts=[prompt] * 3)), rel=1e-12)
        assert front.base[p, i] == pytest.approx(np.mean(reward(said[("base",), prompt], prompts=[prompt] * 3)))
    each = [[r([t], prompts=[p])[0] for r in REWARDS.values()] for p in PROMPTS for t in said[("base",), p]]
    np.testing.assert_allclose(front.normalisation, [np.mean(each, axis=0), np.std(each, axis=0, ddof=1)])


def test_normalisation_is_over_the_base_models_completions():
    texts = iter([f"w{i} " * i for i in (5, 3, 9, 4)])
    model = lambda prompts, preferences: ["w3"] * len(prompts) if preferences is not None else [*texts]  # noqa: E731
    front = evaluate_front(model, ["x", "y"], REWARDS, GRID, samples=2)
    expected = np.array([[25, 9, 81, 16], [-5, -3, -9, -4]])
    np.testing.assert_allclose(front.normalisation, [expected.mean(1), expected.std(1, ddof=1)])
    assert evaluate_front(lambda prompts, _: prompts, ["x"], REWARDS, GRID, base=False).normalisation is None


def test_side_effects_do_not_hide_an_objective_of_their_name():
    front = evaluate_front(echo, PROMPTS, {"length": brief, "a": numbers_in}, GRID)
    assert list(front.side_effects) == ["distinct-2"]
    assert (front.scores[..., 0] < 0).all()


# A model


@pytest.fixture
def model():
    return steered(llama(), task_type="CAUSAL_LM")


def test_mixed_batches_give_what_each_preference_gives_alone(model, tokenizer, tmp_path):
    """Greedy, a batch of all preferences and padded prompts answers as each prompt does alone."""

    def texts(preferences, name, **options):
        path = tmp_path / name
        evaluate_front(
            model, PROMPTS, REWARDS, preferences, tokenizer=tokenizer, record=path, base=False, **options, **TEXT
        )
        rows = [row for line in path.read_text().splitlines()[1:] for row in json.loads(line)]
        return {tuple(row["item"]): row["text"] for row in rows}

    mixed = texts(GRID, "mixed", batch_size=15)
    assert len(set(mixed.values())) > len(PROMPTS), "the preferences must make a difference"
    for k, preference in enumerate(GRID):
        alone = texts([preference], str(k), batch_size=1)
        assert {(k, p, s): text for (_, p, s), text in alone.items()} == {i: t for i, t in mixed.items() if i[0] == k}


def test_kl_and_log_perplexity_are_sums_over_tokens(model, tokenizer):
    """Token by token, without padding, one preference at a time, from the texts alone."""
    answer = SteeredModel(model, tokenizer, {"max_new_tokens": 12, "suppress_tokens": [0, 1]})
    rows = PROMPTS * 3
    preferences = np.repeat(GRID, len(PROMPTS), axis=0)
    answers = answer(rows, preferences)
    lengths = set()
    for i, (prompt, text) in enumerate(zip(rows, answers.texts, strict=True)):
        before, after = tokenizer(prompt)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        after += [2] * (len(after) < 12)  # the end token is not in the text
        lengths.add(len(after))
        own = base = 0.0
        for t, token in enumerate(after):
            ids = torch.tensor([before + after[:t]])
            with torch.no_grad():
                own += model(ids, preference=preferences[i].tolist()).logits[0, -1].log_softmax(-1)[token].item()
                with model.disable_adapter():
                    base += model(ids).logits[0, -1].log_softmax(-1)[token].item()
        assert answers.effects["KL"][i] == pytest.approx(own - base, abs=1e-4)
        assert answers.effects["log-perplexity"][i] == pytest.approx(-base / len(after), abs=1e-4)
    assert len(lengths) > 1, "some completions must end early"


def test_the_share_that_ended_is_a_side_effect_of_a_model(model, tokenizer):
    options = {"tokenizer": tokenizer, "samples": 3, "max_new_tokens": 12, "suppress_tokens": [0, 1]}
    shares = []

    def watching(completions, ended, **_):
        shares.append(np.mean(ended))
        return numbers_in(completions, None)

    front = evaluate_front(model, PROMPTS, {"a": watching, "b": brief}, GRID, batch_size=1000, **options)
    found = front.side_effects["ended"].mean(), front.base_side_effects["ended"].mean()
    assert found == pytest.approx(shares)
    assert 0 < found[0] < 1
    never = evaluate_front(model, PROMPTS, REWARDS, GRID, **{**options, "suppress_tokens": [2]})
    assert not never.side_effects["ended"].any()
    assert never.metrics()["mean ended"] == 0, "there is nothing to drift from"
    assert "ended" not in evaluate_front(echo, PROMPTS, REWARDS, GRID).side_effects


def test_a_record_without_a_side_effect_goes_on_without(model, tokenizer, tmp_path):
    """As one does that was begun before there was such a side effect."""
    ask = partial(evaluate_front, model, PROMPTS, REWARDS, GRID, tokenizer=tokenizer, batch_size=4, max_new_tokens=3)
    whole = ask(record=tmp_path / "record")
    lines = (tmp_path / "record").read_text().splitlines()
    begun = json.loads(lines[1])
    for row in begun:
        del row["numbers"]["ended"]
    for name, kept in {"begun": [json.dumps(begun)], "other part": [*lines[2:3], json.dumps(begun)]}.items():
        (tmp_path / name).write_text("\n".join([lines[0], *kept, ""]))
        again = ask(record=tmp_path / name)
        assert list(again.side_effects) == [effect for effect in whole.side_effects if effect != "ended"]
        assert np.array_equal(again.scores, whole.scores)


def test_kl_in_half_precision_is_no_rounding(tokenizer):
    """Of an adapter that changes nothing it is 0."""
    untrained = get_peft_model(llama().bfloat16(), PanaceaConfig(objectives=["a", "b"], task_type="CAUSAL_LM"))
    front = evaluate_front(untrained, PROMPTS, REWARDS, GRID, tokenizer=tokenizer, max_new_tokens=12)
    assert not front.side_effects["KL"].any()


def test_base_answers_are_without_the_adapter(model, tokenizer):
    base = SteeredModel(model, tokenizer, TEXT)(PROMPTS, None)
    untouched = steered(llama(), task_type="CAUSAL_LM")
    untouched.get_base_model().load_state_dict(model.get_base_model().state_dict())
    with torch.no_grad():
        for name, parameter in untouched.named_parameters():
            if ".panacea_svd." in name:
                parameter.zero_()
    assert base.texts == SteeredModel(untouched, tokenizer, TEXT)(PROMPTS, np.repeat([[1.0, 0]], 5, axis=0)).texts
    assert base.effects["KL"] == [0] * len(PROMPTS)


def test_conversations_are_asked_by_the_template(model, tokenizer):
    """Which here says what the texts say."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    answer = SteeredModel(model, tokenizer, TEXT)
    assert answer.lengths(chats) == answer.lengths(PROMPTS) == [4, 2, 6, 3, 5]
    ask = partial(evaluate_front, model, rewards=REWARDS, preferences=GRID, tokenizer=tokenizer, **TEXT)
    of_chats, of_texts = ask(prompts=chats), ask(prompts=PROMPTS)
    assert np.array_equal(of_chats.scores, of_texts.scores)
    assert of_chats.details["prompts"] != of_texts.details["prompts"]


# What rewards are given


def test_rewards_are_called_as_trl_calls_them(model, tokenizer):
    """Completions of conversations are messages; tokens are there where a model answered, with the end token."""
    calls = []

    def watching(completions, **given):
        calls.append((completions, given))
        return [float(i) for i in range(len(completions))]

    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    rewards, columns = {"a": watching, "b": brief}, {"answer": [f"of {p}" for p in PROMPTS], "n": range(5)}
    few = {"columns": columns, "samples": 2, "batch_size": 7, "suppress_tokens": [0]}
    evaluate_front(model, [*PROMPTS[:2], *chats[2:]], rewards, GRID, tokenizer=tokenizer, max_new_tokens=4, **few)
    seen, ends = Counter(), Counter()
    for completions, given in calls:
        assert list(given) == ["prompts", "completion_ids", "ended", "answer", "n"]
        for completion, prompt, ids, ended, answer, n in zip(completions, *given.values(), strict=True):
            assert prompt == (PROMPTS[n] if n < 2 else chats[n])
            assert answer == f"of {PROMPTS[n]}"
            assert isinstance(completion, str) == (n < 2)
            if n >= 2:
                assert [message["role"] for message in completion] == ["assistant"]
            assert said(completion).split() == [f"w{token}" for token in ids if token > 2]
            assert ids[-1] == 2 or len(ids) == 4
            assert ended is (ids[-1] == 2)
            seen[n] += 1
            ends[ended] += 1
    assert seen == dict.fromkeys(range(5), (len(GRID) + 1) * 2)
    assert ends[True]
    assert ends[False]

    calls.clear()
    evaluate_front(echo, PROMPTS, rewards, GRID)
    assert all(set(given) == {"prompts"} for _, given in calls), "a function has no tokens"


def test_the_packages_rewards_judge_conversations_too(model, tokenizer):
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    rewards = {f.__name__: f for f in (conciseness, dialogue_share, length, sentence_length, Brevity(3))}
    model = steered(llama(), task_type="CAUSAL_LM", objectives=list(rewards))
    ask = partial(evaluate_front, model, rewards=rewards, preferences=np.eye(5), tokenizer=tokenizer, **TEXT)
    assert np.array_equal(ask(prompts=chats).scores, ask(prompts=PROMPTS).scores)


def test_model_and_generators_are_left_as_they_were(model, tokenizer):
    model.set_preference([0.3, 0.7])
    model.train()
    model.base_model.model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate_front(model, PROMPTS[:2], REWARDS, GRID, tokenizer=tokenizer, max_new_tokens=3)
    evaluate_front(echo, PROMPTS, {"a": lambda t, **_: torch.rand(len(t)).tolist(), "b": brief}, GRID)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert model.get_preference().tolist() == torch.tensor([0.3, 0.7]).tolist()
    model.set_preference([[1, 0]] * 3)  # rows that are not those of the batches
    with pytest.raises(RuntimeError, match="reward"):
        evaluate_front(model, PROMPTS, {"a": broken, "b": brief}, GRID, tokenizer=tokenizer, max_new_tokens=3)
    assert [module.training for module in model.modules()] == modes
    assert model.get_preference().tolist() == [[1, 0]] * 3
    evaluate_front(model, PROMPTS[:2], REWARDS, GRID, tokenizer=tokenizer, max_new_tokens=3)


def broken(texts, **_):
    raise RuntimeError("The reward is broken.")


def test_the_models_own_distribution_is_sampled(model, tokenizer):
    """Whatever the generation config says, unless it is asked for."""
    ask = partial(evaluate_front, model, PROMPTS[:2], REWARDS, GRID, tokenizer=tokenizer, max_new_tokens=8)
    plain = ask()
    config = model.generation_config
    config.temperature, config.top_k, config.top_p, config.repetition_penalty, config.min_p = 0.1, 3, 0.5, 3.0, 0.5
    config.no_repeat_ngram_size, config.typical_p, config.do_sample = 1, 0.5, True
    same(ask(), plain)
    greedy = SteeredModel(model, tokenizer, {"generation_config": GenerationConfig(**TEXT, repetition_penalty=1.0)})
    assert greedy.describe()["generation"]["generation_config"]["max_new_tokens"] == 6


# Stopping and going on


def interrupted_after(batches, function):
    count = itertools.count()

    def wrapped(*args, **kwargs):
        if next(count) == batches:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    wrapped.__name__ = function.__name__
    return wrapped


ARGUMENTS = {"samples": 2, "batch_size": 7, "seed": 3}
BATCHES = 5 + 2  # 30 completions under preferences, 10 of the base model


@pytest.mark.parametrize("done", range(BATCHES))
@pytest.mark.parametrize("torn", [0, 1, 40])
def test_a_measurement_that_goes_on_equals_one_that_was_not_stopped(done, torn, tmp_path):
    """Stopped by an exception in a reward after every possible batch; the last line whole or torn off."""
    whole = evaluate_front(echo, PROMPTS, REWARDS, GRID, record=tmp_path / "whole", **ARGUMENTS)
    stopping = {"a": interrupted_after(done, numbers_in), "b": brief}
    path = tmp_path / "folder" / "record"
    with pytest.raises(KeyboardInterrupt):
        evaluate_front(echo, PROMPTS, stopping, GRID, record=path, **ARGUMENTS)
    if torn:
        path.write_bytes(path.read_bytes()[:-torn])
    asked = []

    def model(prompts, preferences):
        asked.append(len(prompts))
        return echo(prompts, preferences)

    model.__name__ = "echo"
    same(evaluate_front(model, PROMPTS, REWARDS, GRID, record=path, **ARGUMENTS), whole)
    assert len(asked) == BATCHES - done + (torn > 0 and done > 0), "what is there must not be made again"
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    asked.clear()
    same(evaluate_front(model, PROMPTS, REWARDS, GRID, record=path, **ARGUMENTS), whole)
    assert asked == []


def test_a_model_goes_on_like_a_function(model, tokenizer, tmp_path):
    ask = partial(evaluate_front, model, PROMPTS, tokenizer=tokenizer, batch_size=8, max_new_tokens=5)
    whole = ask(REWARDS, GRID)
    for done in (0, 1, 2):
        path = tmp_path / str(done)
        with pytest.raises(KeyboardInterrupt):
            ask({"a": interrupted_after(done, numbers_in), "b": brief}, GRID, record=path)
        torch.rand(7)
        same(ask(REWARDS, GRID, record=path), whole)


def test_seed_and_batch_decide_the_samples():
    front = evaluate_front(echo, PROMPTS, REWARDS, GRID)
    same(front, evaluate_front(echo, PROMPTS, REWARDS, GRID))
    assert not np.array_equal(front.scores, evaluate_front(echo, PROMPTS, REWARDS, GRID, seed=1).scores)
    draw = lambda prompts, _: [f"w{x}" for x in torch.randint(0, 2**40, (len(prompts),)).tolist()]  # noqa: E731
    drawn = evaluate_front(draw, PROMPTS, REWARDS, GRID, batch_size=3, base=False).scores[..., 0]
    assert len(np.unique(drawn)) == 15, "every batch must be drawn anew"


def test_a_record_of_something_else_is_refused_by_name(model, tokenizer, tmp_path):
    path = tmp_path / "record"
    evaluate_front(echo, PROMPTS, REWARDS, GRID, record=path)
    before = path.read_bytes()
    other = {"a": Brevity(3), "b": brief}
    for arguments, options, found in (
        ((echo, PROMPTS[1:], REWARDS, GRID), {}, "prompts"),
        ((echo, PROMPTS, REWARDS, GRID), {"columns": {"answer": PROMPTS}}, "prompts"),
        ((echo, PROMPTS, REWARDS, GRID), {"columns": {"answer": [np.zeros(2000)] * len(PROMPTS)}}, "prompts"),
        ((echo, PROMPTS, REWARDS, GRID[1:]), {}, "preferences"),
        ((echo, PROMPTS, other, GRID), {}, "rewards"),
        ((echo, PROMPTS, REWARDS, GRID), {"samples": 2, "seed": 1}, "samples, seed"),
        ((echo, PROMPTS, REWARDS, GRID), {"batch_size": 3}, "batch_size"),
        ((echo, PROMPTS, REWARDS, GRID), {"base": False}, "base"),
        ((lambda p, w: p, PROMPTS, REWARDS, GRID), {}, "model"),
    ):
        with pytest.raises(
            ValueError, match=rf"`record` must hold this measurement, but .*record has other {found}\."
        ):
            evaluate_front(*arguments, record=path, **options)
    assert path.read_bytes() == before

    path = tmp_path / "of a model"
    options = {"tokenizer": tokenizer, "record": path}
    evaluate_front(model, PROMPTS[:1], REWARDS, GRID, max_new_tokens=2, **options)
    with pytest.raises(ValueError, match=r"has other generation\."):
        evaluate_front(model, PROMPTS[:1], REWARDS, GRID, max_new_tokens=3, **options)
    model.get_base_model().bfloat16()
    with pytest.raises(ValueError, match=r"has other adapter, dtype\."):
        evaluate_front(model, PROMPTS[:1], REWARDS, GRID, max_new_tokens=2, **options)
    model.float()
    randomise(model, seed=1)
    with pytest.raises(ValueError, match=r"has other adapter\."):
        evaluate_front(model, PROMPTS[:1], REWARDS, GRID, max_new_tokens=2, **options)


@pytest.mark.parametrize("content", ["my notes", "my notes\n", "[1]\n", '"a"'])
def test_a_file_that_is_no_record_is_left_alone(content, tmp_path):
    path = tmp_path / "notes"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"`record` must be a file of this function, but .*notes is not"):
        evaluate_front(echo, PROMPTS, REWARDS, GRID, record=path)
    assert path.read_text() == content


# What is refused


def test_adapters_of_any_name_and_with_counted_objectives(tokenizer):
    model = steered(llama(), task_type="CAUSAL_LM", objectives=2)
    model.add_adapter("other", PanaceaConfig(objectives=["b", "a"], task_type="CAUSAL_LM"))
    ask = partial(evaluate_front, model, PROMPTS[:1], preferences=GRID, tokenizer=tokenizer, max_new_tokens=2)
    first = ask(rewards=REWARDS).details["adapter"]
    model.set_adapter("other")
    for names in ("ab", "bc", "cd"):
        with pytest.raises(
            ValueError, match=r"`rewards` must be of \['b', 'a'\], in the adapter's order, but got \['"
        ):
            ask(rewards=dict(zip(names, REWARDS.values(), strict=True)))
    assert ask(rewards={"b": brief, "a": numbers_in}).details["adapter"] != first


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"preferences": [[1.0]]}, ValueError, r"`preferences` must have shape \(K, 2\), but got \(1, 1\)"),
        ({"preferences": [[np.nan, 1]]}, ValueError, "`preferences` must hold finite numbers, but got nan"),
        ({"details": {"folder": Path("x")}}, TypeError, "`details` must have what JSON has, but got .*PosixPath"),
        ({"prompts": []}, ValueError, r"`len\(prompts\)` must be at least 1, but got 0"),
        ({"samples": 0}, ValueError, "`samples` must be at least 1, but got 0"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, but got 0"),
        ({"rewards": {"a": "org/m", "b": brief}}, TypeError, r"`rewards\['a'\]` must be a function.* but got 'org/m'"),
        ({"columns": {"x": [1, 2]}}, ValueError, r"`columns\['x'\]` must have 5 values, but got 2"),
        (
            {"columns": {"ended": PROMPTS}},
            ValueError,
            "`columns` must have names other than prompts, completions, completion_ids, ended, but got 'ended'",
        ),
        ({"top_k": 3}, TypeError, "`generation` must be empty for a function, but got top_k"),
        ({"model": lambda p, w: p[1:]}, ValueError, "`model` must return 20 completions, but got 19"),
        (
            {"rewards": {"a": lambda t, **_: [1.0], "b": brief}, "batch_size": 2},
            ValueError,
            r"`rewards\['a'\]` must return a finite number for each of 2 completions, but got \(1,\)",
        ),
        (
            {"rewards": {"a": lambda t, **_: [float("nan")] * len(t), "b": brief}},
            ValueError,
            r"`rewards\['a'\]` must return a finite number for each of 15 completions, but got nan",
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_what_is_refused(changed, error, message):
    arguments = {"model": echo, "prompts": PROMPTS, "rewards": REWARDS, "preferences": GRID, **changed}
    if "model" in changed:
        arguments["samples"], arguments["preferences"] = 2, GRID[:2]
    with pytest.raises(error, match=message):
        evaluate_front(**arguments)


def test_models_that_are_refused(model, tokenizer, tmp_path):
    ask = partial(evaluate_front, prompts=PROMPTS, rewards=REWARDS, preferences=GRID)
    with pytest.raises(
        TypeError, match=r"`model` must be a `PeftModel` with a Panacea adapter, .* a LlamaForCausalLM"
    ):
        ask(llama(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="`tokenizer` must be given and have a padding token, but got None"):
        ask(model, record=tmp_path / "record")
    assert not (tmp_path / "record").exists()
    with pytest.raises(ValueError, match="but got an encoder-decoder"):
        ask(steered(t5(), task_type="SEQ_2_SEQ_LM"), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="one row of tokens for each of 15 prompts, but `generate` returned 30"):
        ask(model, tokenizer=tokenizer, num_return_sequences=2, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"`preference` row 0 must have 2 non-negative entries that sum to 1"):
        evaluate_front(model, PROMPTS, REWARDS, [[1.0, 1.0]], tokenizer=tokenizer)
    model.merge_adapter()
    with pytest.raises(RuntimeError, match="`model` must not be merged"):
        ask(model, tokenizer=tokenizer)


def test_the_base_model_alone(tokenizer):
    model = steered(llama(), task_type="CAUSAL_LM", objectives=["a", "b"])
    options = {"tokenizer": tokenizer, "samples": 2, "batch_size": 4, **TEXT}
    scores = evaluate_base(model, PROMPTS, REWARDS, **options)
    assert scores.shape == (len(PROMPTS), 2, 2)
    assert np.array_equal(scores.mean(axis=1), evaluate_front(model, PROMPTS, REWARDS, GRID, **options).base)


def test_the_base_model_alone_goes_on_from_its_record(tmp_path):
    options = {"samples": 3, "batch_size": 4, "record": tmp_path / "record.jsonl"}
    asked = []

    def model(prompts, preferences):
        asked.append(preferences)
        return echo(prompts, preferences)

    first = evaluate_base(model, PROMPTS, REWARDS, **options)
    assert asked == [None] * 4
    assert np.array_equal(evaluate_base(model, PROMPTS, REWARDS, **options), first)
    assert asked == [None] * 4


def test_preferences_off_the_simplex_when_asked_for(model, tokenizer):
    options, beyond = {"tokenizer": tokenizer, "base": False, **TEXT}, [4.0, -3.0]
    with pytest.raises(ValueError, match="must have 2 non-negative entries that sum to 1"):
        evaluate_front(model, PROMPTS, REWARDS, [beyond], **options)
    front = evaluate_front(model, PROMPTS, REWARDS, [beyond, [0.5, 0.5]], extrapolate=True, **options)
    with model.preference(beyond, extrapolate=True):
        texts = sample(model, tokenizer, PROMPTS, **TEXT).texts
    expected = np.stack([reward(texts, prompts=PROMPTS) for reward in REWARDS.values()], axis=1)
    np.testing.assert_allclose(front.scores[0], expected)
    assert (front.scores[0] != front.scores[1]).any()


def test_arrays_in_columns_count_with_every_number(tmp_path):
    """Their text is abbreviated."""
    columns = [{"number": [np.r_[np.zeros(1000), x, np.zeros(1000)]] * len(PROMPTS)} for x in (0.0, 1.0)]
    rewards = {"a": lambda texts, number, **_: [float(x.sum()) for x in number], "b": brief}
    ask = partial(evaluate_front, echo, PROMPTS, rewards, GRID, record=tmp_path / "record")
    same(ask(columns=columns[0]), ask(columns={"number": [array.copy() for array in columns[0]["number"]]}))
    with pytest.raises(ValueError, match=r"has other prompts\."):
        ask(columns=columns[1])


def test_what_is_no_preference_is_refused_before_anything_is_sampled(model, tokenizer, tmp_path):
    record, wrong = tmp_path / "record", [*GRID, [0.5, 0.6]]
    options = {"tokenizer": tokenizer, "max_new_tokens": 2, "batch_size": 1, "record": record}
    with pytest.raises(ValueError, match=f"`preference` row {len(GRID)} must have 2 non-negative entries"):
        evaluate_front(model, PROMPTS[:1], REWARDS, wrong, **options)
    assert not record.exists()

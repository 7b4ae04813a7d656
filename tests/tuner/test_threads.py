"""One model, many requests: no answer comes out under the preference of another request."""

import asyncio
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, pipeline

from conftest import llama, steered
from peft_panacea import get_preference, set_preference

STORYTELLER = Path(__file__).resolve().parents[2] / "examples" / "storyteller"
SET = [0.6, 0.4]
ONES = [[1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [0.8, 0.2]]
ROWS = [ONES, ONES[::-1], [ONES[2]] * 2 + [ONES[0]] * 2]
DECODINGS = [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]


@pytest.fixture(autouse=True)
def frequent_switches():
    """Threads take turns a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


class Requests:
    """Answers of a model, and whether each is the one that a single run gives."""

    def __init__(self, model, tokens):
        self.model, self.tokens = model, tokens
        self.options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
        self.expected = {}
        for preference, decoding in itertools.product([*ONES, *ROWS, SET], DECODINGS):
            model.set_preference(preference)
            self.expected[str(preference), str(decoding)] = self.generate(**decoding)
        model.set_preference(SET)
        self.asked = itertools.count()
        self.wrong = []

    def generate(self, **options):
        return self.model.generate(**self.tokens, **self.options, **options)

    def check(self, manner, preference, decoding, answer):
        next(self.asked)
        if not torch.equal(answer, self.expected[str(preference), str(decoding)]):
            self.wrong.append((manner, preference, decoding))

    def by_keyword(self, n):
        preference, decoding = ([*ONES, *ROWS] * 2)[n % 7], DECODINGS[n % 3]
        self.check("keyword", preference, decoding, self.generate(preference=preference, **decoding))

    def by_block(self, n):
        preference, decoding = ([*ROWS, *ONES] * 2)[n % 7], DECODINGS[n % 3]
        with self.model.preference(preference):
            self.check("block", preference, decoding, self.generate(**decoding))
            inner = ONES[n % 4]
            self.check("keyword in a block", inner, {}, self.generate(preference=inner))
            self.check("block", preference, {}, self.generate())

    def by_a_failing_block(self, n):
        with pytest.raises(ValueError, match="one row for every row"), self.model.preference(ONES[n % 4]):
            self.generate(preference=ONES[:3])
        with pytest.raises(KeyError), self.model.preference(ROWS[n % 3]):
            raise KeyError
        self.check("what is set, after errors", SET, {}, self.generate())

    def by_setting(self, n):
        """Sets what everyone sees to what it is, again and again."""
        self.model.set_preference(SET)
        self.check("what is set", SET, DECODINGS[n % 3], self.generate(**DECODINGS[n % 3]))


@pytest.mark.mechanics
@pytest.mark.parametrize("threads", [2, 8])
def test_no_answer_is_under_the_preference_of_another_request(threads, tokens):
    requests = Requests(steered(llama(num_hidden_layers=1), task_type="CAUSAL_LM"), tokens)
    manners = [requests.by_keyword, requests.by_block, requests.by_a_failing_block, requests.by_setting]
    together = threading.Barrier(threads)

    def work(first):
        together.wait()
        for n in range(first, first + 280 // threads):
            manners[n % 4](n)

    with ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(work, i * 7) for i in range(threads)]:
            job.result()
    asked = next(requests.asked)
    print(f"threads {threads}: {len(requests.wrong)} of {asked} answers under another preference")
    assert asked >= 400
    assert requests.wrong == []
    assert requests.model.get_preference().tolist() == torch.tensor(SET).tolist()


def test_what_is_set_by_one_is_seen_by_all_others_but_not_in_their_blocks(tokens):
    model = steered(llama(), task_type="CAUSAL_LM")
    entered, was_set = threading.Event(), threading.Event()

    def in_a_block():
        with model.preference([1, 0]):
            entered.set()
            was_set.wait()
            return model.get_preference().tolist(), model(**tokens).logits

    with ThreadPoolExecutor(2) as pool:
        steered_logits = pool.submit(in_a_block)
        entered.wait()
        pool.submit(model.set_preference, [0, 1]).result()
        was_set.set()
        preference, logits = steered_logits.result()
    assert preference == [1.0, 0.0]
    assert torch.equal(logits, model(**tokens, preference=[1, 0]).logits)
    assert torch.equal(model(**tokens).logits, model(**tokens, preference=[0, 1]).logits)


def test_a_running_call_keeps_the_preference_that_it_began_with(tokens):
    model = steered(llama(), task_type="CAUSAL_LM")
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    expected = model.generate(**tokens, **options)

    def set_another(input_ids, scores):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(model.set_preference, [0, 1]).result()
        return scores

    assert torch.equal(model.generate(**tokens, logits_processor=[set_another], **options), expected)
    assert model.get_preference().tolist() == [0.0, 1.0]


def test_setting_in_a_block_warns_that_it_waits():
    model = steered(llama())
    with model.preference([1, 0]):
        with pytest.warns(UserWarning, match="takes effect here once it is left"):
            model.set_preference([0, 1])
        assert model.get_preference().tolist() == [1.0, 0.0]
    assert model.get_preference().tolist() == [0.0, 1.0]


@pytest.mark.mechanics
def test_tasks_of_one_thread_do_not_meet(tokens):
    model = steered(llama(num_hidden_layers=1), task_type="CAUSAL_LM")
    options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    expected = [model.generate(**tokens, preference=p, **options) for p in (*ONES, *ROWS)]
    wrong = []

    async def request(n):
        with model.preference([*ONES, *ROWS][n % 7]):
            await asyncio.sleep(0)
            answers = [model.generate(**tokens, **options)]
            await asyncio.sleep(0)
            answers.append(await asyncio.to_thread(model.generate, **tokens, **options))
        wrong.extend(n for answer in answers if not torch.equal(answer, expected[n % 7]))

    async def main():
        await asyncio.gather(*map(request, range(42)))

    asyncio.run(main())
    print(f"tasks: {len(wrong)} of 84 answers under another preference")
    assert wrong == []
    assert model.get_preference().tolist() == [0.5, 0.5]


@pytest.fixture(scope="module")
def storyteller():
    model = steered(AutoModelForCausalLM.from_pretrained(STORYTELLER / "model"), task_type="CAUSAL_LM")
    return model, AutoTokenizer.from_pretrained(STORYTELLER / "model")


@pytest.mark.mechanics
def test_pipelines_in_threads(storyteller):
    model, tokenizer = storyteller
    answer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {"do_sample": False, "max_new_tokens": 8, "return_full_text": False}

    def ask(preference):
        return answer("Once upon a time", preference=preference, **options)[0]["generated_text"]

    expected = [ask(preference) for preference in ONES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, ONES * 10))
    wrong = sum(text != expected[i % 4] for i, text in enumerate(found))
    print(f"pipeline: {wrong} of 40 answers under another preference")
    assert len(set(expected)) > 1
    assert wrong == 0


@pytest.mark.mechanics
def test_streamers_in_threads(storyteller):
    """`generate` runs in a thread of its own there, which inherits no block but takes the keyword."""
    model, tokenizer = storyteller
    inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)

    def stream(preference):
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        options = {"do_sample": False, "max_new_tokens": 8, "streamer": streamer, "preference": preference}
        threading.Thread(target=model.generate, kwargs={**inputs, **options}).start()
        return streamer

    expected = ["".join(stream(preference)) for preference in ONES]
    with model.preference([0.5, 0.5]):
        streams = [stream(preference) for preference in ONES * 10]
        wrong = sum("".join(pieces) != expected[i % 4] for i, pieces in enumerate(streams))
    print(f"streamers: {wrong} of 40 answers under another preference")
    assert len(set(expected)) > 1
    assert wrong == 0


def test_the_gradient_in_another_thread_is_that_of_the_forwards_preference(tokens):
    """Autograd recomputes a checkpointed block in a thread of its own on a GPU, as it does here."""
    model = steered(llama()).train()
    model.enable_input_require_grads()

    def gradient():
        model.zero_grad()
        with model.preference(ONES):
            loss = model(**tokens, labels=tokens["input_ids"]).loss
        with ThreadPoolExecutor(1) as pool:
            pool.submit(loss.backward).result()
        return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".panacea_svd." in n])

    expected = gradient()
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradient(), expected)


def test_native_adapters_in_threads(tokens):
    native = steered(llama()).base_model.model  # as transformers' `add_adapter` leaves it: no PeftModel around it
    set_preference(native, SET)
    expected = {}
    for preference in ONES:
        set_preference(native, preference)
        expected[str(preference)] = native(**tokens).logits
    set_preference(native, SET)

    from peft_panacea import preference as steer

    def ask(preference):
        with steer(native, preference):
            return torch.equal(native(**tokens).logits, expected[str(preference)])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, ONES * 10))
    assert get_preference(native).tolist() == torch.tensor(SET).tolist()

"""The page as its visitors meet it: on loopback, several at once."""

import asyncio
import gc
import json
import random
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager
from zipfile import ZipFile

import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from conftest import llama, steered
from peft_panacea.playground import OnFront, check_port, page, serve
from peft_panacea.playground.answers import stream
from peft_panacea.playground.controls import PreferenceSliders
from peft_panacea.playground.handlers import Handlers
from small_fronts import front
from small_tokenizers import word_tokenizer

# gradio and its client leave event loops and their sockets to the garbage collector, the last one to asyncio.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

PROMPT = "w10 w11 w12"
GREEDY = (0, 12, 0)


@pytest.fixture(autouse=True)
def nothing_is_left_to_other_tests():
    yield
    collect()


def collect():
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture(scope="module")
def model():
    """Its preference decides what it says, and it never ends by itself."""
    torch.manual_seed(0)
    model = steered(llama(max_position_embeddings=4096), task_type="CAUSAL_LM")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".scale", ".sigma")):
                parameter.mul_(20)
    model.generation_config.eos_token_id = 64  # which there is not
    return model


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture(scope="module")
def url(model, tokenizer):
    """Of the page; whoever it connects to in the meantime is on this machine."""
    connect, outside = socket.socket.connect, []

    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            outside.append(address)
        return connect(self, address)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    socket.socket.connect = watched
    try:
        blocks = page(model, tokenizer, "tiny", OnFront(front(P=48), ["a", "b"]))
        yield serve(blocks, "127.0.0.1", port, wait=False)
        blocks.close()
    finally:
        socket.socket.connect = connect
        del blocks
        collect()
    assert outside == []


@contextmanager
def visitor(url):
    client = Client(url, verbose=False)
    try:
        yield client
    finally:
        client.close()


def in_process(model, tokenizer, prompt, preferences, temperature, tokens, seed):
    options = {"temperature": temperature, "max_new_tokens": tokens, "seed": seed}
    return list(stream(model, tokenizer, prompt, preferences, **options))[-1]


def test_two_visitors_get_the_answers_of_their_own_preferences(url, model, tokenizer):
    rng = random.Random(0)
    weights = [round(rng.random(), 3) for _ in range(40)]
    with visitor(url) as one, visitor(url) as other:
        jobs = [
            (one, other)[i % 2].submit(PROMPT, w, 1 - w, *GREEDY, api_name="/answer") for i, w in enumerate(weights)
        ]
        answers = [job.result(timeout=60) for job in jobs]
    expected = [in_process(model, tokenizer, PROMPT, [[w, 1 - w]], *GREEDY)[0] for w in weights]
    assert answers == expected
    assert len(set(expected)) > 3, "the preference says nothing"
    assert model.get_preference().tolist() == [0.5, 0.5]


def test_a_comparison_is_two_answers(url, model, tokenizer):
    sampled = (0.8, 9, 7)
    with visitor(url) as one:
        both = one.predict(PROMPT, 1.0, 0.0, 0.2, 0.8, *sampled, api_name="/compare")
        alone = [one.predict(PROMPT, *p, *sampled, api_name="/answer") for p in ((1.0, 0.0), (0.2, 0.8))]
    assert list(both) == alone == in_process(model, tokenizer, PROMPT, [[1.0, 0.0], [0.2, 0.8]], *sampled)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("/answer", ("  ", 0.5, 0.5, *GREEDY), "`prompt` must have some text, but got none."),
        (
            "/answer",
            (PROMPT, 0.5, 0.6, *GREEDY),
            r"must have 2 non-negative entries that sum to 1, .* got \[0.5, 0.6\]",
        ),
        ("/answer", (f"{PROMPT} " * 1400, 0.5, 0.5, *GREEDY), "`prompt` must have fewer than 4096 tokens"),
        ("/compare", (PROMPT, 0.5, 0.5, 0.1, 0.1, *GREEDY), r"`preference` row 1 must have"),
        ("/choose", ("a", "", "99"), "What is wished for must be attainable"),
        ("/choose", ("a", "x", ""), "The limits must be numbers"),
        ("/export", (0.5, 0.6), "`preference` must have 2 non-negative entries"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(url, name, arguments, sentence):
    with visitor(url) as one, pytest.raises(AppError, match=sentence):
        one.predict(*arguments, api_name=name)


def test_a_wish_sets_the_sliders(url):
    with visitor(url) as one:
        a, b = one.predict("a", "", "0.4", api_name="/choose")
    wished = front(P=48).choose("a", {"b": 0.4}).preference
    assert (a, b) == pytest.approx((wished["a"], wished["b"]), abs=1e-3)
    assert a + b == pytest.approx(1)


def test_a_preference_is_taken_along(url):
    with visitor(url) as one, ZipFile(one.predict(0.25, 0.75, api_name="/export")) as archive:
        assert {"lora/adapter_config.json", "lora/adapter_model.safetensors"} <= set(archive.namelist())


def test_who_goes_away_ends_the_answer(url, model):
    calls = []
    hook = model.get_base_model().register_forward_pre_hook(lambda *_: calls.append(time.monotonic()))
    config = json.load(urllib.request.urlopen(f"{url}config"))
    answer = next(one["id"] for one in config["dependencies"] if one["api_name"] == "answer")
    question = {"data": [PROMPT, 0.5, 0.5, 0, 1024, 0], "fn_index": answer, "session_hash": "gone"}
    request = urllib.request.Request(
        f"{url}gradio_api/queue/join", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=gone") as answers:
        while len(calls) < 5:
            answers.readline()
    for _ in range(100):
        before = len(calls)
        time.sleep(0.3)
        if len(calls) == before:
            break
    hook.remove()
    assert 5 <= len(calls) < 1024


def test_browsers_are_told_to_ask_nobody_else(url):
    for path in ("", "config", "theme.css"):
        with urllib.request.urlopen(url + path) as answer:
            assert answer.headers["content-security-policy"].startswith("default-src 'self'")
            text = answer.read().decode()
        assert "fonts.g" not in text
        assert "googletagmanager" not in text


def test_it_listens_at_this_machine_alone(url):
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=rf"`--port` must be free on 127.0.0.1, but {port} is not: "):
        check_port("127.0.0.1", port)
    check_port("127.0.0.2", port)


def test_it_leaves_no_thread_of_its_own(model, tokenizer):
    before = {thread.name for thread in threading.enumerate()}
    page(model, tokenizer, "tiny")
    assert not {thread.name for thread in threading.enumerate()} - before  # those of earlier tests may end meanwhile


def test_what_a_slider_moves():
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        sliders = PreferenceSliders([0.2, 0.3, 0.5], ["a", "b", "c"])
        assert [slider.value for slider in sliders.sliders] == [0.2, 0.3, 0.5]
        exact, a, b, c = sliders._move(2, [0.2, 0.3, 0.5], 0.0)
    assert exact == pytest.approx([0.4, 0.6, 0.0])
    assert (a, b) == (0.4, 0.6)
    assert c == gr.skip()


def test_an_answer_says_what_it_was_asked_under(model, tokenizer):
    handlers = Handlers(model, tokenizer)
    answer, button = handlers.begin(0.25, 0.75)
    assert (answer["value"], answer["label"], button["interactive"]) == ("", "Answer at a 0.25, b 0.75", False)
    one, other, button = handlers.begin_both(1, 0, 0, 1)
    assert (one["label"], other["label"], button["interactive"]) == ("Answer at a 1", "Answer at b 1", False)

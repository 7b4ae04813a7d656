"""transformers' server answers each request under its own preference."""

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import uvicorn
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig

import peft_panacea
from conftest import randomise
from peft_panacea import PanaceaConfig
from peft_panacea.command import main
from peft_panacea.serving import transformers_server
from peft_panacea.serving.transformers_server import steered_server
from peft_panacea.simplex import PreferenceSampler

pytestmark = pytest.mark.filterwarnings("default")  # what servers warn of is not ours

BASE = Path(__file__).parents[2] / "examples/storyteller/model"
PAGED = ContinuousBatchingConfig(page_size=16, num_blocks=64, max_batch_tokens=256)
PROMPTS = ["Once upon a time", "Once upon a time there was a cat", "The sun"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter")
    config = PanaceaConfig(
        objectives=["a", "b"], r=8, task_type="CAUSAL_LM", preference_bounds={"b": (0.1, 1.0)},
    )  # fmt: skip

    model = randomise(get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=[False, PAGED], ids=["one by one", "continuous batching"])
def ask(adapter, request):
    """What posts to a running server."""
    server = uvicorn.Server(
        uvicorn.Config(steered_server(str(adapter), continuous_batching=request.param), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]

    def post(route, **body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{route}",
            json.dumps({"model": str(adapter), "temperature": 0, **body}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["detail"]

    yield post
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def expected(adapter):
    """The answer in process."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(BASE)

    def answer(prompt, preference):
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=8, do_sample=False, preference=preference)
        return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    return answer


def test_concurrent_requests_have_their_own_preferences(ask, expected):
    drawn = [[(p := 0.9 * first), 1 - p] for first, _ in PreferenceSampler(2, seed=0)(24).tolist()]
    asked = [(PROMPTS[i % 3], preference) for i, preference in enumerate(drawn)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda one: ask("/v1/completions", prompt=one[0], preference=one[1], max_tokens=8), asked)
        )
    texts = [json.loads(answer)["choices"][0]["text"] for answer in answers]
    assert texts == [expected(*one) for one in asked]
    assert len(set(texts)) > 3


def test_without_one_it_is_the_default(ask, expected):
    answer = json.loads(ask("/v1/completions", prompt=PROMPTS[0], max_tokens=8))
    assert answer["choices"][0]["text"] == expected(PROMPTS[0], [0.5, 0.5])


def test_a_streamed_answer_is_steered_to_its_end(ask, expected):
    for preference in ([0.9, 0.1], {"a": 0.0, "b": 1.0}):
        answer = ask("/v1/completions", prompt=PROMPTS[0], preference=preference, max_tokens=8, stream=True)
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
        assert text == expected(PROMPTS[0], preference)


@pytest.mark.parametrize(
    ("preference", "sentence"),
    [
        ([0.5, 0.6], "`preference` must have 2 non-negative entries that sum to 1, for a, b, but got [0.5, 0.6]."),
        ([[0, 1], [0.5, 0.5]], "`preference` must be one preference for a request, but got 2 rows."),
        ("much", "`preference` must be numbers, or one of the adapter's `named_preferences` [], but got 'much'."),
        ({"a": 0.5, "c": 0.5}, "`preference` must name exactly the objectives ['a', 'b'], but got ['a', 'c']."),
        ([0.95, 0.05], "`preference` must have 'b' between 0.1 and 1"),
        (0, "`preference` must be a list"),
        (False, "`preference` must be a list"),
        ([], "`preference` must have 2 non-negative entries"),
    ],
    ids=repr,
)
def test_a_wrong_preference_is_refused_with_the_sentence(ask, expected, preference, sentence):
    status, said = ask("/v1/completions", prompt=PROMPTS[0], preference=preference, max_tokens=8)
    assert (status, said[: len(sentence)]) == (400, sentence)
    answer = json.loads(ask("/v1/completions", prompt=PROMPTS[0], max_tokens=8))
    assert answer["choices"][0]["text"] == expected(PROMPTS[0], [0.5, 0.5])


def test_other_fields_are_refused_as_before(ask):
    status, said = ask("/v1/completions", prompt=PROMPTS[0], preferences=[0.5, 0.5])
    assert status == 422
    assert "preferences" in str(said)


def test_the_server_has_nothing_of_its_own(adapter):
    """An adapter that transformers put into a model, steered as any other."""
    model = AutoModelForCausalLM.from_pretrained(BASE)
    model.load_adapter(str(adapter))
    assert peft_panacea.get_preference(model).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="`preference_bounds` allow"), torch.no_grad():
        peft_panacea.set_preference(model, [1, 0])


def test_tokens_that_came_with_the_adapter(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens(["<one>", "<other>"])
    tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = PanaceaConfig(objectives=2, task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"])
    model = randomise(get_peft_model(model, config)).eval()
    model.save_pretrained(tmp_path)
    models = transformers_server._Models(device="cpu", dtype="float32", force_model=str(tmp_path))
    served, processor = models.load_model_and_processor(f"{tmp_path}@main")
    assert len(processor) == len(tokenizer)
    ids = torch.tensor([[len(tokenizer) - 1, 5, 6]])
    with torch.no_grad():
        expected = model(ids, preference=[0.3, 0.7]).logits
        peft_panacea.set_preference(served, [0.3, 0.7])
        torch.testing.assert_close(served(ids).logits, expected)


def test_the_command_serves_what_it_is_told(adapter, monkeypatch):
    served = {}
    monkeypatch.setattr(
        transformers_server, "steered_server", lambda path, **options: served.update(options, path=path)
    )
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.update(options))
    assert main(["serve", str(adapter), "--continuous_batching", "--cache_tokens", "8192", "--port", "8123"]) == 0
    pages = served["continuous_batching"]
    assert (served["path"], served["host"], served["port"]) == (str(adapter), "127.0.0.1", 8123)
    assert (pages.num_blocks * pages.page_size, pages.max_batch_tokens) == (8192, 1024)
    assert main(["serve", str(adapter)]) == 0
    assert served["continuous_batching"] is False


def test_the_command_says_what_is_wrong(adapter, capsys, tmp_path):
    assert main(["serve", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["serve", str(adapter), "--dtype", "float7"]) == 2
    assert "peft-panacea: Unsupported dtype: 'float7'" in capsys.readouterr().err
    assert main(["serve", str(adapter), "--continuous_batching", "--cache_tokens", "100"]) == 2
    assert "peft-panacea: `--cache_tokens` must be at least 256, but got 100." in capsys.readouterr().err

"""The recipes and scripts with a chat model: the template everywhere, and what a user asks of them."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import is_torch_bf16_gpu_available

from conftest import load_script, randomise
from peft_panacea import PanaceaConfig
from peft_panacea.command import main
from peft_panacea.completions import sample
from peft_panacea.data import chat_prompt
from peft_panacea.front import Front
from small_chat import SYSTEM, conversations, save_chat_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPES = EXAMPLES / "recipes"

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

REWARDS = '''
import json
from pathlib import Path

def few(completions, prompts, **kwargs):
    """Notes what was asked and refuses what is no conversation."""
    assert all(one[-1]["role"] == "user" for one in prompts)
    assert all(one[0]["role"] == "assistant" for one in completions)
    with Path(__file__).with_name("asked.jsonl").open("a") as file:
        file.writelines(json.dumps(prompt) + "\\n" for prompt in prompts)
    return [-float(sum(int(word[1:]) % 2 for word in one[0]["content"].split())) for one in completions]

def late(completions, **kwargs):
    return [float(sum(int(word[1:]) for word in one[0]["content"].split())) for one in completions]
'''


@pytest.fixture
def run(monkeypatch):
    """Run a script of `examples/` with arguments."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(EXAMPLES / "data"))

    def run(script: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return run


def command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return save_chat_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    base = AutoModelForCausalLM.from_pretrained(model)
    config = PanaceaConfig(objectives=["few", "late"], task_type="CAUSAL_LM")
    randomise(get_peft_model(base, config)).save_pretrained(folder)
    return folder


FAILING = """
import os

def few(completions, prompts, **_):
    if any(os.environ.get("FAIL_AT", "never") in str(prompt) for prompt in prompts):
        raise KeyboardInterrupt
    return [-float(len(completion[0]["content"])) for completion in completions]
"""


@pytest.fixture
def rewards(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    return [f"{tmp_path / 'rewards.py'}:{name}" for name in ("few", "late")]


def write(path: Path, rows: list) -> Path:
    is_lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) if is_lines else json.dumps(rows))
    return path


COMMON = (
    "--objectives",
    "few",
    "late",
    "--max_steps",
    1,
    "--front_steps",
    1,
    "--report_to",
    "none",
    "--save_strategy",
)
COMMON += ("no", "--disable_tqdm", "true", "--held_out", 2, "--dataloader_pin_memory", "false", "--logging_steps", 1)
RL = ("--per_device_train_batch_size", 4, "--num_generations", 2, "--max_completion_length", 4, "--samples", 2)


@pytest.mark.parametrize(("algorithm", "source"), [("grpo", "file.json"), ("rloo", "file.jsonl"), ("rloo", "hub")])
def test_rl_on_conversations(algorithm, source, run, model, rewards, tmp_path, capsys):
    asked = conversations(8, system=True)
    if source == "hub":  # where a data set is a folder, too
        data = tmp_path / "hub"
        data.mkdir()
        write(data / "train.jsonl", [{"prompt": prompt, "source": "x"} for prompt in asked])
    else:
        data = write(tmp_path / source, asked)
    flags = [*COMMON, *RL, "--output_dir", tmp_path / "run", "--system_prompt", "w7 w8"]
    run("recipes/rlhf.py", algorithm, "--model_name_or_path", model, "--data", data, "--rewards", *rewards, *flags)
    expected = [chat_prompt(prompt, "w7 w8") for prompt in asked]
    assert {one[0]["content"] for one in expected} == {"w7 w8", SYSTEM["content"]}
    heard = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert all(prompt in expected for prompt in heard)
    assert all(prompt in heard for prompt in expected)
    held_out = [row["prompt"] for row in json.loads((tmp_path / "run" / "held_out.json").read_text())]
    assert len(held_out) == 2
    assert all(prompt in expected for prompt in held_out)
    printed = capsys.readouterr().out
    is_off = "bf16 autocast is off: torch finds no accelerator that has it. Frozen weights: float32." in printed
    assert is_off is not is_torch_bf16_gpu_available()
    assert (
        "6 prompts, the base model, 2 completions each: 12 completions of up to 4 tokens, in 2 batches of 8."
        in printed
    )
    assert (
        "2 prompts, 2 preferences and the base model, 2 completions each: 12 completions of up to 4 tokens" in printed
    )


def test_rl_on_texts_goes_through_the_template_unless_plain(run, model, tmp_path, capsys):
    data = write(tmp_path / "texts.json", [f"w{i} w{i + 1}" for i in range(10, 18)])
    flags = [*COMMON, *RL, "--rewards", "length", "distinct=1", "--normalisation_prompts", 0]
    flags += ["--model_name_or_path", model, "--data", data, "--output_dir", tmp_path / "run"]
    for plain in (False, True):
        run("recipes/rlhf.py", "rloo", *flags, *(["--plain"] if plain else []))
        rows = json.loads((tmp_path / "run" / "held_out.json").read_text())
        assert all(isinstance(row["prompt"], str) is plain for row in rows)
        printed = capsys.readouterr().out
        assert ("each text is asked as a user's message" in printed) is not plain
        assert "Mean and standard deviation of the rewards" not in printed
        assert not (tmp_path / "run" / "reward_normalisation.json").exists()
        (tmp_path / "run" / "completions-1.jsonl").unlink()


ROWS = {
    "sft": [{"prompt": f"w{i}", "completion": f" w{i + 1}", "objective": i % 2} for i in range(10, 22)],
    "dpo": [{"prompt": f"w{i}", "chosen": "w5", "rejected": "w6", "objective": i % 2} for i in range(10, 22)],
}


@pytest.mark.parametrize("name", ROWS)
def test_losses_on_texts_go_through_the_template(name, run, model, tmp_path, capsys):
    data = write(tmp_path / "rows.jsonl", ROWS[name])
    flags = ["--model_name_or_path", model, "--data", data, "--output_dir", tmp_path / "run", "--system_prompt", "w7"]
    run(f"recipes/{name}.py", *COMMON, "--held_out", 4, *flags, "--per_device_train_batch_size", 4)
    rows = json.loads((tmp_path / "run" / "held_out.json").read_text())
    answers = {"sft": ["completion"], "dpo": ["chosen", "rejected"]}[name]
    for row in rows:
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert all([message["role"] for message in row[answer]] == ["assistant"] for answer in answers)
    printed = capsys.readouterr().out
    assert "the losses of 4 held-out rows under 2 preferences and without the adapter" in printed


def test_an_adapter_as_flags_say(run, model, tmp_path):
    data = write(tmp_path / "rows.jsonl", ROWS["sft"])
    flags = [*COMMON, "--model_name_or_path", model, "--data", data, "--per_device_train_batch_size", 4]
    flags += ["--front_steps", 0]

    def trained(name: str, *more: object) -> tuple[dict, dict]:
        run("recipes/sft.py", *flags, *more, "--output_dir", tmp_path / name)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert not (tmp_path / name / "front.json").exists()
        return config, load_file(tmp_path / name / "adapter_model.safetensors")

    config, last = trained("default", "--held_out", 0, "--max_steps", 3)
    default = PanaceaConfig(objectives=["few", "late"]).to_dict()
    names = ("r", "preference_rank", "coordinates", "scaling", "panacea_dropout")
    assert [config[name] for name in names] == [default[name] for name in names]
    assert not (tmp_path / "default" / "held_out.json").exists()

    config, mean = trained("average", "--held_out", 0, "--max_steps", 3, "--average", 0.7)
    assert any(not torch.equal(last[name], mean[name]) for name in last)

    config, _ = trained("paper", "--paper", "--preference_rank", 2)
    assert [config[name] for name in names] == [8, 2, "raw", "paper", 0.0]
    config, _ = trained("own", "--r", 2, "--coordinates", "raw", "--scaling", 0.5, "--panacea_dropout", 0.1)
    assert [config[name] for name in names] == [2, default["preference_rank"], "raw", 0.5, 0.1]


def test_the_paper_has_one_preference_for_a_batch(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    flags = ["--model_name_or_path", "m", "--data", "d", "--objectives", "a", "b", "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["x", *flags, "--paper"])
    script = load_script(RECIPES / "recipe.py")
    from trl import SFTConfig

    _, preferences, args = script.parse(script.RecipeArguments, SFTConfig)
    assert preferences.preference_per == "batch"
    assert args.model_init_kwargs == {"dtype": "bfloat16"}


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_is_used_where_torch_has_it_unless_a_flag_says_otherwise(has_bf16, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(RECIPES))
    script = load_script(RECIPES / "recipe.py")
    from trl import SFTConfig

    for where in (script.__dict__, vars(sys.modules["transformers.training_args"])):
        monkeypatch.setitem(where, "is_torch_bf16_gpu_available", lambda: has_bf16)

    def parsed(*flags: str) -> object:
        command = ["x", "--model_name_or_path", "m", "--data", "d", "--objectives", "a", "b", *flags]
        monkeypatch.setattr(sys, "argv", command)
        return script.parse(script.RecipeArguments, SFTConfig)[2]

    assert parsed().bf16 is has_bf16
    assert ("bf16 autocast is off" in capsys.readouterr().out) is not has_bf16
    assert parsed("--bf16", "false").bf16 is False
    assert parsed("--fp16", "true").bf16 is False
    if not has_bf16:
        with pytest.raises(SystemExit, match=r"^Your setup doesn't support bf16/gpu"):
            parsed("--bf16", "true")
        assert parsed("--bf16", "true", "--use_cpu", "true").bf16 is True


def test_answers_of_a_chat_model(run, model, rewards, tmp_path, capsys):
    texts = [f"w{i} w{i + 1}" for i in range(10, 14)]
    data = write(tmp_path / "texts.json", texts)
    flags = ["--model_name_or_path", model, "--data", data, "--objectives", "few", "late", "--rewards", *rewards]
    flags += ["--output_dir", tmp_path, "--max_new_tokens", 6]
    run("data/answers.py", *flags, "--greedy", "--system_prompt", "w7")
    asked = [chat_prompt(text, "w7") for text in texts]
    expected = sample(
        AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), asked, max_new_tokens=6,
        do_sample=False,
    ).texts  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == asked
    assert [row["responses"] for row in rows] == [[[{"role": "assistant", "content": text}]] for text in expected]
    assert "4 prompts, 1 answers each, of up to 6 tokens" in capsys.readouterr().out

    run("data/answers.py", *flags, "--answers", 3, "--temperature", 0.01, "--dtype", "bfloat16", "--batch_size", 6)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [len(row["responses"]) for row in rows] == [3] * 4


def test_interrupted_answers_go_on(run, model, tmp_path, monkeypatch):
    data = write(tmp_path / "texts.json", [f"w{i} w{i + 1}" for i in range(10, 15)])
    (tmp_path / "rewards.py").write_text(FAILING)
    flags = ["--model_name_or_path", model, "--data", data, "--objectives", "few", "late", "--max_new_tokens", 6]
    flags += ["--rewards", *[f"{tmp_path / 'rewards.py'}:few"] * 2, "--answers", 2, "--batch_size", 4]
    run("data/answers.py", *flags, "--output_dir", tmp_path / "whole")
    monkeypatch.setenv("FAIL_AT", "w12 w13")  # which is in the second of three batches
    with pytest.raises(KeyboardInterrupt):
        run("data/answers.py", *flags, "--output_dir", tmp_path / "parts")
    unfinished = tmp_path / "parts" / "answers.partial.jsonl"
    assert len(unfinished.read_text().splitlines()) == 1 + 2
    with unfinished.open("a") as file:
        file.write('{"prompt": "torn')
    monkeypatch.setenv("FAIL_AT", "w10 w11")  # not asked again
    run("data/answers.py", *flags, "--output_dir", tmp_path / "parts")
    for name in ("answers.jsonl", "best.jsonl"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert not unfinished.exists()

    monkeypatch.setenv("FAIL_AT", "w12 w13")
    with pytest.raises(KeyboardInterrupt):
        run("data/answers.py", *flags, "--output_dir", tmp_path / "parts")
    monkeypatch.setenv("FAIL_AT", "w10 w11")
    with pytest.raises(KeyboardInterrupt):  # other settings begin anew
        run("data/answers.py", *flags, "--output_dir", tmp_path / "parts", "--temperature", 0.5)


def test_demonstrations_are_answers_under_an_instruction_that_is_not_told(run, model, tmp_path, capsys, monkeypatch):
    prompts = [[{"role": "system", "content": "w7"}, *conversations(1)[0]], conversations(2)[1]]
    data, output = write(tmp_path / "prompts.json", prompts), tmp_path / "demonstrations.jsonl"
    flags = ["--model_name_or_path", model, "--data", data, "--objectives", "few", "late", "--batch_size", 2]
    flags += ["--instructions", "w20 w21", "w22", "--output", output, "--max_new_tokens", 40, "--temperature", 2]
    heard = []

    def hearing(*args, **options):
        heard.append(args[2])
        return replace(sample(*args, **options), ended=[True, False])

    monkeypatch.setattr("peft_panacea.completions.sample", hearing)
    run("data/demonstrations.py", *flags)
    system = [told[0] for batch in heard for told in batch]
    assert [message["content"] for message in system] == ["w7 w20 w21", "w7 w22", "w20 w21", "w22"]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    said = capsys.readouterr().out
    assert f"Wrote 2 demonstrations to {output}; 2 answers were cut off" in said
    assert [(row["prompt"], row["objective"]) for row in rows] == [(prompt, "few") for prompt in prompts]

    def interrupted(*args, **options):
        if heard:
            raise KeyboardInterrupt
        return hearing(*args, **options)

    written, heard[:] = output.read_text(), []
    monkeypatch.setattr("peft_panacea.completions.sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("data/demonstrations.py", *flags)
    monkeypatch.setattr("peft_panacea.completions.sample", hearing)
    run("data/demonstrations.py", *flags)
    assert len(heard) == 2  # the first batch once, and the second once
    assert output.read_text() == written


def test_the_front_of_a_chat_model(adapter, rewards, tmp_path, capsys):
    held_out = write(tmp_path / "held_out.json", [{"prompt": prompt} for prompt in conversations(3)])
    pairs = [f"{name}={reward}" for name, reward in zip(("few", "late"), rewards, strict=True)]
    flags = ["--prompts", held_out, "--steps", 1, "--max_new_tokens", 5, "--output", tmp_path]
    command("front", adapter, *flags, "--system_prompt", "w7", "--greedy", "--dtype", "bfloat16", "--rewards", *pairs)
    front = Front.from_json(tmp_path / "front.json")
    assert front.scores.shape == (2, 3, 2)
    assert front.details["generation"]["do_sample"] is False
    assert (front.details["samples"], front.details["batch_size"]) == (1, 32)
    heard = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert all(prompt[0] == {"role": "system", "content": "w7"} for prompt in heard)
    assert "9 completions of up to 5 tokens, in 2 batches of 32" in capsys.readouterr().out
    command("front", adapter, *flags, "--temperature", 0.5, "--output", tmp_path / "warm", "--rewards", *pairs)
    assert Front.from_json(tmp_path / "warm" / "front.json").details["generation"]["temperature"] == 0.5


def test_answers_at_five_preferences(adapter, tmp_path, capsys):
    prompts = write(tmp_path / "texts.json", [f"w{i} w{i + 1}" for i in range(10, 14)])
    command("answer", adapter, "--prompts", prompts, "--first", 2, "--greedy", "--max_new_tokens", 5)
    printed = capsys.readouterr().out
    assert printed.count("few 0.25, late 0.75: ") == 2
    assert printed.count("few ") == 10
    words = ["answer", adapter, "w11 w12", "--greedy", "--max_new_tokens", 5, "--json"]
    command(*words, "--preference", "0.25", "0.75", "--preference", "late=1", "few=0")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["prompt"] == [{"role": "user", "content": "w11 w12"}]
    assert [one["preference"] for one in found["answers"]] == [{"few": 0.25, "late": 0.75}, {"few": 0.0, "late": 1.0}]
    assert f"few 0.25, late 0.75: {found['answers'][0]['text'].strip()}" in printed
    assert "w11 w12" in printed
    assert "\nw12 w13" not in printed


def test_the_committed_configurations_in_the_order_of_the_page(run, model, rewards, tmp_path):
    """With a small model, few steps and few tokens in place of theirs."""
    chat, common = EXAMPLES / "chat", ["--model_name_or_path", model]
    short = [*common, "--max_steps", 1, "--save_strategy", "no", "--held_out", 2, "--report_to", "none"]
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"w{i} w{i + 1}"} for i in range(10, 20)])
    names = ["--config", chat / "answers.yaml", "--data", prompts, "--rewards", *rewards]
    run("data/answers.py", *common, *names, "--output_dir", tmp_path, "--max_new_tokens", 4)
    demonstrations = tmp_path / "demonstrations.jsonl"
    names = ["--config", chat / "demonstrations.yaml", "--data", prompts, "--output", demonstrations]
    run("data/demonstrations.py", *common, *names, "--max_new_tokens", 60)
    for name, rows in (("sft", demonstrations.name), ("dpo", "answers.jsonl")):
        files = ["--config", chat / f"{name}.yaml", "--data", tmp_path / rows, "--output_dir", tmp_path / name]
        run(f"recipes/{name}.py", *files, *short)
        assert Front.from_json(tmp_path / name / "front.json").scores.shape == (5, 1, 2)
    files = ["--config", chat / "rlhf.yaml", "--data", prompts, "--output_dir", tmp_path / "rlhf"]
    run("recipes/rlhf.py", "rloo", *files, *short, "--rewards", *rewards, "--max_completion_length", 4)
    assert Front.from_json(tmp_path / "rlhf" / "front.json").objectives == ("polite", "brief")

    held_out = tmp_path / "rlhf" / "held_out.json"
    pairs = [f"{name}={reward}" for name, reward in zip(("polite", "brief"), rewards, strict=True)]
    flags = ["--prompts", held_out, "--max_new_tokens", 4]
    command("front", tmp_path / "rlhf", *flags, "--rewards", *pairs, "--output", tmp_path / "front", "--steps", 2)
    assert Front.from_json(tmp_path / "front" / "front.json").scores.shape == (3, 2, 2)
    command("answer", tmp_path / "rlhf", *flags)

"""What all rewards have in common: no text crashes them, they pickle, and TRL takes them."""

import math
import pickle
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl import RLOOConfig, RLOOTrainer

from peft_panacea.rewards import (
    Brevity,
    Classifier,
    Distinct,
    TokenLength,
    Valence,
    conciseness,
    dialogue_share,
    length,
    load_reward,
    sentence_length,
)
from small_classifier import save_classifier

STORYTELLER = str(Path(__file__).resolve().parents[2] / "examples" / "storyteller" / "model")
LEXICON = {"Happy": 2.7, "sad": -2.1, "can’t": -1.0}

BOUNDS = [
    (length, 0, math.inf),
    (Brevity(8), -math.inf, 0),
    (Valence(LEXICON), -1, 1),
    (Valence({"a": 1e300, "0": -1e300}), -1, 1),
    (dialogue_share, 0, 1),
    (sentence_length, 0, math.inf),
    (Distinct(), 0, 1),
]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text() | st.text("aA0 .\"“”!\n-'’_é\u0301", max_size=60))
@example("")
@example("नमस्ते 世界 🙂")
def test_bounds(text):
    for reward, low, high in BOUNDS:
        (value,) = reward([text])
        assert math.isfinite(value)
        assert low <= value <= high


BY_TOKENS = [conciseness, TokenLength(8)]


@pytest.mark.parametrize("reward", [*BY_TOKENS, *(bound[0] for bound in BOUNDS)], ids=lambda r: r.__name__)
def test_pickles(reward):
    copy = pickle.loads(pickle.dumps(reward))
    arguments = {"completions": ['"Happy," she said. 0'], "completion_ids": [[1] * 60], "ended": [True]}
    assert copy(**arguments) == reward(**arguments)
    assert copy.__name__ == reward.__name__


def test_names_tell_rewards_apart():
    rewards = (Brevity(8), TokenLength(8), Distinct(3), Valence(LEXICON))
    assert [r.__name__ for r in rewards] == ["brevity_8", "tokens_8", "distinct_3", "valence"]


@pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours
@pytest.mark.parametrize("conversational", [False, True], ids=["text", "messages"])
def test_trl_takes_them_and_logs_by_name(tmp_path, conversational):
    model = save_classifier(tmp_path / "mood", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER)
    prompts = ["There was once a fox.", "One day a sheep sang."]
    chosen = [conciseness, length, Brevity(8), Valence(LEXICON), dialogue_share, Distinct(), Classifier(model)]
    chosen += [TokenLength(8, tokenizer)]  # without the mixin TRL does not say what ended
    if conversational:
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    else:
        chosen += [load_reward(save_classifier(tmp_path / "folder", num_labels=1))]
    config = RLOOConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=4, num_generations=2, use_cpu=True,
        bf16=False, max_completion_length=8, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    columns = {"prompt": prompts, "answer": ["a", "b"]}
    trainer = RLOOTrainer(
        STORYTELLER, chosen, config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    names = ["conciseness", "length", "brevity_8", "valence", "dialogue_share", "distinct_2", "mood", "tokens_8"]
    for name in names if conversational else [*names, "folder"]:
        assert math.isfinite(logged[f"rewards/{name}/mean"])

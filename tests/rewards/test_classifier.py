"""The log-odds of a classifier, in batches and alone, and what is none."""

import pickle
from pathlib import Path

import pytest
import torch

from peft_panacea.rewards import Classifier, classifier
from small_classifier import save_classifier

STORYTELLER = str(Path(__file__).resolve().parents[2] / "examples" / "storyteller" / "model")


@pytest.mark.parametrize("architecture", ["modernbert", "llama"])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", None])
def test_log_odds_are_those_of_the_models_probabilities(tmp_path, architecture, problem):
    labels = {"low": 0, "middle": 1, "high": 2}
    folder = save_classifier(
        tmp_path / "mood",
        architecture=architecture,
        label2id=labels,
        id2label={v: k for k, v in labels.items()},
        problem_type=problem,
    )
    reward = Classifier(folder, "high", device="cpu")
    ids = reward.tokenizer("so good", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = reward.model(ids).logits[0]
    p = logits.sigmoid()[2] if problem == "multi_label_classification" else logits.softmax(-1)[2]
    assert reward(["so good"]) == pytest.approx([float(p.logit())], abs=1e-4)
    assert reward.__name__ == "mood_high"


@pytest.mark.parametrize("labels", [1, 3])
def test_a_regression_gives_its_output_as_it_is(tmp_path, labels):
    """In the units that it was trained on."""
    folder = save_classifier(tmp_path / "stars", num_labels=labels, problem_type="regression")
    for index in range(labels):
        reward = Classifier(folder, None if labels == 1 else f"LABEL_{index}", device="cpu")
        with torch.no_grad():
            output = reward.model(**reward.tokenizer("so good", return_tensors="pt")).logits[0, index]
        assert reward(["so good", ""]) == pytest.approx([float(output), 0.0], abs=1e-5)


@pytest.mark.parametrize("architecture", ["modernbert", "llama"])
def test_a_batch_gives_what_its_texts_give_alone(tmp_path, architecture, monkeypatch):
    reward = Classifier(save_classifier(tmp_path / "one", architecture=architecture, num_labels=1))
    texts = ["good", "", "so so bad", [{"role": "assistant", "content": "so so bad"}], " \n", "so good " * 100]
    alone = [reward([text])[0] for text in texts]
    monkeypatch.setattr(classifier, "BATCH_SIZE", 3)
    assert reward(texts, prompts=texts) == pytest.approx(alone, abs=1e-5)
    assert alone[1] == alone[4] == 0.0
    assert alone[2] == alone[3] != 0.0
    assert alone[5] == pytest.approx(reward(["so good " * 6])[0], abs=1e-5)  # cut off at 12 tokens
    assert reward([]) == []
    assert reward.__name__ == "one"


def test_a_model_that_counts_positions_behind_the_paddings_has_fewer(tmp_path):
    """Of 12 positions RoBERTa's first is the padding's."""
    reward = Classifier(save_classifier(tmp_path, architecture="roberta", num_labels=1))
    assert reward(["so good " * 100]) == pytest.approx(reward(["so good " * 5 + "so"]), abs=1e-5)
    assert reward(["so good " * 100]) != pytest.approx(reward(["so good " * 5]), abs=1e-5)


def test_a_pickled_classifier_holds_no_weights(tmp_path):
    reward = Classifier(save_classifier(tmp_path), "LABEL_1")
    pickled = pickle.dumps(reward)
    assert len(pickled) < 500
    assert pickle.loads(pickled)(["so good"]) == reward(["so good"])


def test_a_classifier_needs_a_label_that_it_has(tmp_path):
    folder = save_classifier(tmp_path)
    for label in (None, "good"):
        with pytest.raises(ValueError, match=f"`label` must be one of LABEL_0, LABEL_1, but got {label!r}"):
            Classifier(folder, label)


def test_a_language_model_is_no_classifier():
    with pytest.raises(ValueError, match=r"must be a trained classifier, but got '.*' without score\.weight"):
        Classifier(STORYTELLER, "LABEL_1")

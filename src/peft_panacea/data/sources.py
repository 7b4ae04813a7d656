"""Public data sets with several objectives as training rows.

Every function takes one split as `load_dataset` gives it. Prompts and responses become messages, so that a chat
template stands between them; TRL puts strings together as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from ..extras import needs
from .shapes import Text, dataset_of, pairs_from_scores

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]

OBJECTIVES = {
    "pku_safe_rlhf": ("helpful", "harmless"),
    "ultrafeedback": ("helpfulness", "honesty", "instruction_following", "truthfulness"),
    "xstest": ("helpful", "harmless"),
    "fine_grained_rlhf": ("relevance", "factuality", "completeness"),
}
"""By function the objectives of its `objective_labels`, in their order; those of `helpsteer2` are its `attributes`."""


def pku_safe_rlhf(dataset: Dataset) -> Dataset:
    """Pairs for `helpful` and `harmless` from PKU-Alignment/PKU-SafeRLHF, also its 10K and 30K editions.

    Args:
        dataset: Rows with `prompt`, `response_0`, `response_1`, `better_response_id` and `safer_response_id`, the two
            last 0 or 1.

    Returns:
        A row for every two different responses, with `objective_labels`: [1, 1] if the better response is the safer
        one, else [1, -1].
    """
    return _pairs(
        (
            row["prompt"],
            [row["response_0"], row["response_1"]],
            [[int(row["better_response_id"] == i), int(row["safer_response_id"] == i)] for i in (0, 1)],
        )
        for row in _rows(dataset, "prompt", "response_0", "response_1", "better_response_id", "safer_response_id")
    )


def hh_rlhf(dataset: Dataset, *, messages: bool = True) -> Dataset:
    """Pairs of one objective from Anthropic/hh-rlhf; its folders `helpful-…` and `harmless-base` go into `combine`.

    Args:
        dataset: Rows with `chosen` and `rejected`, two dialogues that begin alike.
        messages: Give messages; False: strings, the prompt up to and with its last ``Assistant:``.

    Returns:
        Rows with `prompt`, `chosen` and `rejected`, split after the last ``Assistant:`` that both have in common. In
        a few dialogues the assistant speaks twice; what follows the split is one message then.

    Raises:
        ValueError: a row that does not begin with ``Human:`` or has no common ``Assistant:``.
    """
    human, marker, rows = "\n\nHuman:", "\n\nAssistant:", []
    for i, row in enumerate(_rows(dataset, "chosen", "rejected")):
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(row["chosen"], row["rejected"], strict=False))
        start = row["chosen"].rfind(marker, 0, sum(1 for _ in alike))
        if start < 0 or not row["chosen"].startswith(human):
            raise ValueError(
                f"`dataset` row {i} must be two dialogues that begin with {human!r} and have a common {marker!r}, "
                f"but got {row}."
            )
        end = start + len(marker)
        prompt, chosen, rejected = row["chosen"][:end], row["chosen"][end:], row["rejected"][end:]
        if messages:
            turns = re.split(r"\n\n(Human|Assistant):", prompt[:start])[1:]
            roles = ["user" if speaker == "Human" else "assistant" for speaker in turns[::2]]
            prompt = [_message(*turn) for turn in zip(roles, map(str.strip, turns[1::2]), strict=True)]
            chosen, rejected = ([_message("assistant", text.strip())] for text in (chosen, rejected))
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return dataset_of(rows)


def ultrafeedback(dataset: Dataset) -> Dataset:
    """Pairs for `helpfulness`, `honesty`, `instruction_following`, `truthfulness` from openbmb/UltraFeedback.

    Args:
        dataset: Rows with `instruction` and `completions`, a list of `response` and `annotations`, which has a
            `Rating`, "1" to "5", for each of the four; one that is no number, such as "N/A", is no opinion.

    Returns:
        A row with `objective_labels` for every two responses that are rated differently.
    """

    def scores(annotations: Row) -> list[int | None]:
        ratings = [str(annotations[aspect]["Rating"]) for aspect in OBJECTIVES["ultrafeedback"]]
        return [int(rating) if rating.isdigit() else None for rating in ratings]

    return _pairs(
        (
            row["instruction"],
            [completion["response"] for completion in row["completions"]],
            [scores(completion["annotations"]) for completion in row["completions"]],
        )
        for row in _rows(dataset, "instruction", "completions")
    )


def helpsteer2(dataset: Dataset, attributes: Sequence[str] = ("helpfulness", "correctness", "coherence")) -> Dataset:
    """Pairs for the chosen attributes from nvidia/HelpSteer2.

    Args:
        dataset: Rows with `prompt` (turns after the first begin with ``<extra_id_1>``), `response` and the attributes,
            ints from 0 to 4; rows of one prompt are compared.
        attributes: The objectives. `complexity` and `verbosity` are there as well, but more of them is not better.

    Returns:
        A row with `objective_labels` for every two responses that are rated differently.
    """

    def messages(prompt: str) -> list[dict[str, str]]:
        first, *later = re.split(r"\n<extra_id_1>(User|Assistant)\n", prompt)
        turns = zip(later[::2], later[1::2], strict=True)
        return [_message("user", first), *(_message(speaker.lower(), text) for speaker, text in turns)]

    return _pairs(
        (messages(prompt), [row["response"] for row in rows], [[row[a] for a in attributes] for row in rows])
        for prompt, rows in _by_prompt(_rows(dataset, "prompt", "response", *attributes))
    )


def xstest(dataset: Dataset) -> Dataset:
    """Pairs for `helpful` and `harmless` across the models of XSTest.

    On safe prompts `helpful` prefers compliance to partial refusal to full refusal and `harmless` has no opinion. On
    unsafe prompts `helpful` prefers the same and `harmless` the contrary, so that the two disagree on every pair.

    Args:
        dataset: The completions of several models, one after the other (natolambert/xstest-v2-copy, or the files
            `xstest_v2_completions_….csv`): `prompt`, `completion`, `type`, which begins with ``contrast_`` on unsafe
            prompts, and `final_label`: `1_full_compliance`, `2_full_refusal` or `3_partial_refusal`.

    Returns:
        A row with `objective_labels`, [1, 0] or [1, -1], for every two completions with different labels.

    Raises:
        ValueError: another `final_label`.
    """
    compliance = {"1_full_compliance": 2, "3_partial_refusal": 1, "2_full_refusal": 0}
    rows = _rows(dataset, "prompt", "completion", "type", "final_label")
    if unknown := set(rows["final_label"]) - set(compliance):
        raise ValueError(f"`final_label` must be one of {list(compliance)}, but got {unknown.pop()!r}.")

    def scores(row: Row) -> list[int | None]:
        degree = compliance[row["final_label"]]
        return [degree, -degree if row["type"].startswith("contrast_") else None]

    return _pairs((p, [r["completion"] for r in rows], [scores(r) for r in rows]) for p, rows in _by_prompt(rows))


def fine_grained_rlhf(dataset: Dataset) -> Dataset:
    """Pairs for `relevance`, `factuality` and `completeness` from the QA feedback of Fine-Grained RLHF.

    Errors were marked in the first of four answers only, and its annotator wrote a corrected answer. So these are
    compared: an objective prefers the correction if the answer has an error of its kind and has no opinion otherwise.
    No two objectives disagree.

    Args:
        dataset: `train_feedback.json` or `dev_feedback.json`: `question`, `passages` (lists of a title and
            sentences), `prediction 1` and `feedback` with `errors` (Irrelevant, Redundant and Incoherent count for
            relevance, Wrong-Grounding and Unverifiable for factuality), `missing-info` (completeness) and
            `corrected-prediction`.

    Returns:
        A row with `objective_labels` for every question whose answer has an error and whose correction is not empty.
        The prompt is the passages and the question.
    """
    kinds = (("Irrelevant", "Redundant", "Incoherent"), ("Wrong-Grounding", "Unverifiable"))

    def example(row: Row) -> tuple[str, list[str], list[list[int]]]:
        feedback = row["feedback"]
        errors = [-sum(error["error type"] in kind for error in feedback["errors"]) for kind in kinds]
        passages = [f"{title}\n{' '.join(sentences)}" for title, *sentences in row["passages"]]
        answers = [row["prediction 1"], feedback["corrected-prediction"]]
        return "\n\n".join([*passages, row["question"]]), answers, [[*errors, -len(feedback["missing-info"])], [0] * 3]

    rows = _rows(dataset, "question", "passages", "prediction 1", "feedback")
    return _pairs(example(row) for row in rows if row["feedback"]["corrected-prediction"].strip())


def _rows(dataset: Dataset, *columns: str) -> Dataset:
    with needs("train"):
        from datasets import Dataset
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`dataset` must be a Dataset, such as one split of what was loaded, but got {type(dataset)}.")
    if not set(columns) <= set(dataset.column_names):
        raise ValueError(f"`dataset` must have the columns {list(columns)}, but got {dataset.column_names}.")
    return dataset


def _by_prompt(dataset: Dataset) -> Iterable[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in dataset:
        groups.setdefault(row["prompt"], []).append(row)
    return groups.items()


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _pairs(examples: Iterable[tuple[Text, Sequence[str], Sequence[Sequence[float | None]]]]) -> Dataset:
    rows = []
    for prompt, responses, scores in examples:
        messages = [_message("user", prompt)] if isinstance(prompt, str) else prompt
        rows += pairs_from_scores(messages, [[_message("assistant", text)] for text in responses], scores)
    if not rows:
        raise ValueError("`dataset` must have a pair on which an objective has an opinion, but got none.")
    return dataset_of(rows)

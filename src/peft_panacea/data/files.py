"""Training rows from a file of your own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shapes import dataset_of, pairs_from_scores

if TYPE_CHECKING:
    from datasets import Dataset

LAYOUTS = (
    ("prompt", "responses", "scores"),
    ("prompt", "chosen", "rejected", "objective"),
    ("prompt", "completion", "objective"),
    ("text", "objective"),
)


def json_preferences(path: str | Path, objectives: Sequence[str]) -> Dataset:
    """Read the rows of a JSON file.

    Args:
        path: A ``.jsonl`` file with an object on every line, or any other with a list of objects. All have the columns
            of one of these layouts; other columns are ignored. Texts are strings throughout, or lists of messages with
            `role` and `content` throughout.

            - `prompt`, `responses` (a list of texts) and `scores` (for every response an object with a number for each
              objective, the higher the better; one that is absent or null is no opinion)
            - `prompt`, `chosen`, `rejected` and `objective` (a name, or an index from 0)
            - `prompt`, `completion` and `objective`
            - `text` and `objective`
        objectives: The m names, in the order of the index.

    Returns:
        For the first layout the pairs of `pairs_from_scores`, with `objective_labels`; for the others the rows as they
        are, with the index as `objective`.

    Raises:
        ValueError: a file that is not JSON or gives no rows, or a bad row; the message names the file, the row
            (counted from 1; in ``.jsonl`` the line), the column, the rule and what was found.
    """
    rows: list[dict[str, Any]] = []
    form: tuple[tuple[str, ...], type] | None = None
    for number, row in read_json(Path(path)):
        try:
            form = form or _form(row)
            rows += _parse(row, *form, list(objectives))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
    if not rows:
        raise ValueError(f"{path} must have a row on which an objective has an opinion, but got none.")
    return dataset_of(rows)


def read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a file and their numbers from 1, in ``.jsonl`` the lines'."""
    with path.open(encoding="utf-8") as file:
        number = 1
        try:
            if path.suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, json.loads(line)
                return
            rows = json.load(file)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            where = f"{path}, row {number}:" if path.suffix == ".jsonl" else path
            raise ValueError(f"{where} must be JSON, but got: {error}.") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of objects, but got {short(rows)}.")
    yield from enumerate(rows, 1)


def _form(row: Any) -> tuple[tuple[str, ...], type]:
    """The layout of the first row, and whether its texts are strings or lists."""
    for layout in LAYOUTS:
        if isinstance(row, dict) and set(layout) <= set(row):
            return layout, type(row[layout[0]])
    raise ValueError(f"the row must have the columns of one of {list(map(list, LAYOUTS))}, but got {short(row)}.")


def _parse(row: Any, layout: Sequence[str], kind: type, names: list[str]) -> list[dict[str, Any]]:
    if not isinstance(row, dict) or not set(layout) <= set(row):
        raise ValueError(f"the row must have the columns {list(layout)}, like the first, but got {short(row)}.")
    texts = {column: row[column] for column in layout if column not in ("responses", "scores", "objective")}
    for column, text in texts.items():
        check_text(column, text, kind)
    if "responses" in layout:
        responses, scores = row["responses"], row["scores"]
        if not isinstance(responses, list):
            raise ValueError(f"`responses` must be a list of texts, but got {short(responses)}.")
        for text in responses:
            check_text("responses", text, kind)
        if not isinstance(scores, list) or not all(isinstance(s, dict) and set(s) <= set(names) for s in scores):
            raise ValueError(f"`scores` must be a list of objects with numbers for {names}, but got {short(scores)}.")
        return pairs_from_scores(row["prompt"], responses, [[score.get(name) for name in names] for score in scores])
    objective = names.index(row["objective"]) if row["objective"] in names else row["objective"]
    if type(objective) is not int or not 0 <= objective < len(names):
        raise ValueError(
            f"`objective` must be one of {names} or an index from 0 to {len(names) - 1}, but got {short(objective)}."
        )
    return [{**texts, "objective": objective}]


def check_text(column: str, text: Any, kind: type) -> None:
    """Refuse what is no string, or no list of messages if `kind` is list."""
    if kind is list:
        rule = "a list of messages with `role` and `content`, like the first"
        valid = (
            isinstance(text, list)
            and bool(text)
            and all(
                isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
                for message in text
            )
        )
    else:
        rule, valid = "a string", isinstance(text, str)
    if not valid:
        raise ValueError(f"`{column}` must be {rule}, but got {short(text)}.")


def short(value: Any) -> str:
    """For error messages."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"

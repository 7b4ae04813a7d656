"""What the benchmarks of servers share: the answers in process, the server's life, and where results go."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs/results/serving.json"
STORYTELLER = ROOT / "examples/storyteller"
TOKENS, PROMPTS, REQUESTS, SEED = 24, 12, 200, 0


class Answer(NamedTuple):
    """Tokens without the prompt, up to the end, perhaps with it, and the log-probability of each."""

    tokens: list[int]
    log_p: list[float]


@torch.no_grad()
def in_process(model: Any, ids: list[int], preference: list[float]) -> Answer:
    """The likeliest tokens."""
    model.set_preference(preference, extrapolate=True)
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=TOKENS,
        do_sample=False, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    tokens = out.sequences[0, len(ids) :].tolist()
    end = model.config.eos_token_id
    tokens = tokens[: tokens.index(end)] if end in tokens else tokens
    return Answer(tokens, [scores.log_softmax(-1).max().item() for scores in out.scores[: len(tokens)]])


def compare(model: Any, what: str, answers: Sequence[Answer], asked: Sequence[Any]) -> dict[str, Any]:
    """A row: how many answers are the ones in process, token by token, and the largest difference of their
    log-probabilities. `asked` are pairs of a prompt's tokens and a preference.
    """
    same, largest = 0, 0.0
    for answer, (ids, preference) in zip(answers, asked, strict=True):
        tokens, log_p = in_process(model, ids, preference)
        if answer.tokens[: len(tokens)] == tokens and len(answer.tokens) <= len(tokens) + 1:
            same += 1
            pairs = zip(answer.log_p[: len(tokens)], log_p, strict=True)
            largest = max([largest, *(abs(one - own) for one, own in pairs)])
    row = {"what": what, "same": same, "of": len(asked), "largest difference": largest}
    print(json.dumps(row), flush=True)
    return row


@contextmanager
def running(
    command: Callable[[int], list[str]], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """A server on this machine alone, until the block ends: its address and the id of its process.

    Args:
        command: What starts it at a port.
        folder: To start it in; its words go to `server.log` there.
        environment: All variables; those of this process if None.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command(port), cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise SystemExit((folder / "server.log").read_text()[-2000:]) from None
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def post(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request, also to a refused one."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        return json.load(refused)


def table(server: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Of the runs of one server, a column for each model."""
    runs = [run for run in runs if run["server"] == server]
    heads = [run["model"] for run in runs]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for rows in zip(*(run["rows"] for run in runs), strict=True):
        cells = [
            row["found"] if "found" in row else f"{row['same']} of {row['of']}, {row['largest difference']:.0e}"
            for row in rows
        ]
        lines.append(f"| {rows[0]['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save(run: Mapping[str, Any], page: Path) -> None:
    """Into the results, in place of an earlier run of the same server and model, and into the page of the server."""
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
    key = run["server"], run["model"]
    runs = [*(other for other in runs if (other["server"], other["model"]) != key), run]
    RESULT.write_text(json.dumps({"command": "make serving", "runs": runs}) + "\n", encoding="utf-8")
    new = f"<!-- serving -->\n{table(run['server'], runs)}\n<!-- end -->"
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- serving -->\n.*?<!-- end -->", lambda _: new, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")

"""Exports are made once, whole or not at all, and kept while a process lives that was given them."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peft_panacea.serving import cache
from peft_panacea.serving.cache import ExportCache


def writing(text, made=None):
    def write(folder):
        folder.mkdir()
        (folder / "file").write_text(text)
        if made is not None:
            made.append(text)

    return write


def names(root):
    return sorted(folder.name for folder in (root / "adapters").iterdir())


OTHER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(cache.__file__).parent)!r})  # alone, because it knows nothing of the slow rest
from cache import ExportCache
cache = ExportCache(Path(sys.argv[1]), 3)
for key in sys.argv[2:]:
    cache.get(key, lambda folder: (folder.mkdir(), (folder / "file").write_text(key)))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path):
    """Starts processes that are given some keys and live until they are told to end."""
    started = []

    def start(*keys):
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", OTHER, tmp_path, *keys],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for one in started:
        one.communicate()


def test_made_once(tmp_path):
    made = []
    first = ExportCache(tmp_path, 3).get("a", writing("a", made))
    assert ExportCache(tmp_path, 3).get("a", writing("again", made)) == first
    assert made == ["a"]
    assert (first / "file").read_text() == "a"


def test_made_once_by_many_threads(tmp_path):
    made, kept = [], ExportCache(tmp_path, 100)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: kept.get(str(i % 5), writing(str(i % 5), made)), range(40)))
    assert sorted(made) == list("01234")
    assert [(folder / "file").read_text() for folder in found] == [str(i % 5) for i in range(40)]


def test_what_fails_leaves_nothing(tmp_path):
    kept = ExportCache(tmp_path, 3)

    def fail(folder):
        writing("half")(folder)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        kept.get("a", fail)
    assert names(tmp_path) == []
    assert (kept.get("a", writing("whole")) / "file").read_text() == "whole"


def test_what_a_killed_process_left_half_is_not_seen(tmp_path):
    kept = ExportCache(tmp_path, 3)
    kept.get("a", writing("a"))
    writing("half")(tmp_path / "partial")
    assert (kept.get("b", writing("b")) / "file").read_text() == "b"
    assert names(tmp_path) == ["a", "b"]


def test_the_least_recently_asked_for_goes(tmp_path, process):
    process("a", "b", "c").communicate()
    for age, key in enumerate("bca"):  # b is the oldest
        os.utime(tmp_path / "adapters" / key, ns=(age, age))
    kept = ExportCache(tmp_path, 3)
    kept.get("b", writing("never"))
    kept.get("d", writing("d"))
    assert names(tmp_path) == ["a", "b", "d"]
    kept.get("e", writing("e"))
    assert names(tmp_path) == ["b", "d", "e"]


def test_what_a_living_process_was_given_stays(tmp_path, process):
    living = process("a", "b")
    kept = ExportCache(tmp_path, 3)
    kept.get("c", writing("c"))
    message = "`PEFT_PANACEA_EXPORTS` must leave room for another preference, but 3 are in use and it is 3"
    with pytest.raises(RuntimeError, match=message):
        kept.get("d", writing("d"))
    assert names(tmp_path) == ["a", "b", "c"]
    assert kept.get("a", writing("never")).is_dir()  # and is given to this process, too
    living.communicate()
    kept.get("d", writing("d"))
    assert names(tmp_path) == ["a", "c", "d"]
    with pytest.raises(RuntimeError, match="3 are in use"):
        kept.get("e", writing("e"))


def test_also_where_it_was_killed(tmp_path, process):
    living = process("a", "b", "c")
    living.kill()
    living.wait()
    ExportCache(tmp_path, 3).get("d", writing("d"))
    assert names(tmp_path) == ["b", "c", "d"]
    assert len(list((tmp_path / "held").iterdir())) == 1, "what the dead one held is forgotten"


def test_a_smaller_limit_than_before(tmp_path, process):
    process("a", "b", "c").communicate()
    ExportCache(tmp_path, 1).get("d", writing("d"))
    assert names(tmp_path) == ["d"]


def test_processes_do_not_make_it_twice(tmp_path):
    slow = OTHER.replace("folder.mkdir()", "folder.mkdir(), time.sleep(0.3)").replace("sys.stdin.read()", "")
    start = time.time()
    both = [
        subprocess.Popen([sys.executable, "-c", slow, tmp_path, "a"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [one.communicate()[0] for one in both] == ["ready\n"] * 2
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "adapters/a/file").read_text() == "a"
    assert time.time() - start > 0.3

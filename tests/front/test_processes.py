"""A front that several processes measure is the one that a single process measures, to the byte.

Two processes on the CPU, joined by gloo. They run `front_worker.py`.
"""

import json
import multiprocessing
from contextlib import ExitStack

import pytest

import distributed_worker
import front_worker as worker
from peft_panacea.front.processes import first_does, share_out

SECONDS = 60  # a hang fails
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def on_both(tmp_path_factory):
    """Call `function(rank, *arguments)` in both processes of one group; the results by rank."""
    rendezvous = (tmp_path_factory.mktemp("group") / "rendezvous").as_uri()
    with ExitStack() as pools:  # which end their processes also when these hang
        ranks = [
            pools.enter_context(SPAWN.Pool(1, distributed_worker.join_group, (rank, rendezvous))) for rank in range(2)
        ]

        def call(function, *arguments):
            pending = [pool.apply_async(function, (rank, *arguments)) for rank, pool in enumerate(ranks)]
            return [result.get(timeout=SECONDS) for result in pending]

        yield call


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder with the record and the front of one process."""
    folder = tmp_path_factory.mktemp("alone")
    worker.measure(folder / "record").to_json(folder / "front.json")
    return folder


def stop_alone(record, batches):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.measure(record, worker.Words(batches, interrupt))


def lines(record):
    return len(record.read_bytes().splitlines()) - 1  # the first one says what is measured


@pytest.mark.mechanics
def test_two_processes_measure_what_one_does(on_both, alone, tmp_path):
    """Both processes have the front, one writes the record; no byte differs."""
    on_both(worker.measure_and_write, tmp_path / "record", tmp_path)
    assert lines(alone / "record") == worker.BATCHES
    assert (tmp_path / "record").read_bytes() == (alone / "record").read_bytes()
    for rank in range(2):
        assert (tmp_path / f"front of {rank}.json").read_bytes() == (alone / "front.json").read_bytes()
    print(f"front, two processes against one: equal bytes, {(alone / 'record').stat().st_size} in the record")


@pytest.mark.parametrize("done", [1, 2, 5, 6])
def test_what_one_process_began_two_can_finish(on_both, alone, tmp_path, done):
    """With a last line that was torn off, at several places in the rounds."""
    record = tmp_path / "record"
    stop_alone(record, done)
    record.write_bytes(record.read_bytes() + b'[{"item": [0')
    on_both(worker.measure_and_write, record, tmp_path)
    assert record.read_bytes() == (alone / "record").read_bytes()
    assert (tmp_path / "front of 1.json").read_bytes() == (alone / "front.json").read_bytes()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.mechanics
def test_what_two_killed_processes_began_others_can_finish(together, on_both, alone, tmp_path):
    """They end in the middle of their second round, as a job does whose time is over; one goes on, or two do."""
    rendezvous, record = (tmp_path / "rendezvous").as_uri(), tmp_path / "record"
    processes = [SPAWN.Process(target=worker.die, args=(rank, rendezvous, record, 1)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    assert [process.exitcode for process in processes] == [7, 7]
    assert lines(record) == 2, "the first round"
    if together:
        on_both(worker.measure_and_write, record, tmp_path)
    else:
        worker.measure(record).to_json(tmp_path / "front of 0.json")
    assert record.read_bytes() == (alone / "record").read_bytes()
    assert (tmp_path / "front of 0.json").read_bytes() == (alone / "front.json").read_bytes()
    print(f"front, two processes killed after 2 of {worker.BATCHES} batches, finished by {1 + together}: equal bytes")


def test_an_error_in_one_process_is_raised_in_both(on_both, alone, tmp_path):
    """After the results that come before it were kept; the same call goes on."""
    record = tmp_path / "record"
    assert on_both(worker.fail, record, {}, (1000, 1)) == ["ArithmeticError: The reward is broken."] * 2
    assert lines(record) == 3, "the first round, and what process 0 made of the second"
    on_both(worker.measure_and_write, record, tmp_path)
    assert record.read_bytes() == (alone / "record").read_bytes()


def test_a_record_of_something_else_is_refused_by_both(on_both, alone):
    """Though only process 0 reads it."""
    before = (alone / "record").read_bytes()
    (first, second) = on_both(worker.fail, alone / "record", {"seed": 4}, (1000, 1000))
    assert first == second
    assert first.startswith("ValueError: `record` must hold this measurement, but ")
    assert first.endswith("has other seed.")
    assert (alone / "record").read_bytes() == before


def test_both_run_the_model_equally_often(on_both):
    """So that the forwards of a sharded model are in step: 3 rounds with the adapter and 1 of the base model."""
    sampled, of_base = (
        3,
        1,
    )  # how likely tokens are is known from sampling, with the adapter also asked of the base model
    assert on_both(worker.forwards) == [3 * (sampled + of_base) + sampled] * 2


def test_a_sharded_model_is_measured_without_a_hang(on_both, alone, tmp_path):
    """It says what the whole model says; rows are as long as the longest of both processes, so sums may be rounded."""
    on_both(worker.measure_sharded, tmp_path / "record", tmp_path)
    first, second = (tmp_path / f"sharded front of {rank}.json" for rank in range(2))
    assert first.read_bytes() == second.read_bytes()
    sharded, whole = (
        [row for line in path.read_text().splitlines()[1:] for row in json.loads(line)]
        for path in (tmp_path / "record", alone / "record")
    )
    assert [row["text"] for row in sharded] == [row["text"] for row in whole]
    for one, other in zip(sharded, whole, strict=True):
        assert one["numbers"] == pytest.approx(other["numbers"], abs=1e-5)


def test_one_process_needs_no_group():
    assert list(share_out(lambda x: 2 * x, [1, 2, 3])) == [2, 4, 6]
    assert first_does(lambda: json.loads("[1]")) == [1]
    with pytest.raises(ZeroDivisionError):
        list(share_out(lambda x: 1 / x, [1, 0]))

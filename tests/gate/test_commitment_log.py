import multiprocessing
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smoothgate import metrics
from smoothgate.certify.merkle import EMPTY_ROOT, extends, includes, leaf_hash
from smoothgate.errors import NotReady, SmoothgateError
from smoothgate.gate.commitment_log import FILE, CommitmentLog


@pytest.fixture
def log(tmp_path: Path) -> CommitmentLog:
    made = CommitmentLog(tmp_path / "store")
    made.open()
    return made


def _entries(count: int) -> list[bytes]:
    return [b'{"entry": %d}' % number for number in range(count)]


def test_every_entry_is_proved_after_every_append(log: CommitmentLog) -> None:
    entries = _entries(21)
    _, size, before = log.head()
    assert (size, before) == (0, EMPTY_ROOT)
    for first in range(0, 21, 3):
        assert log._append(entries[first : first + 3]) == first
        _, size, head = log.head()
        assert size == first + 3
        for number in range(size):
            leaf, path = log.inclusion(number, size)
            assert leaf == leaf_hash(entries[number])
            assert includes(leaf, number, size, path, head)
        if first:
            assert extends(first, before, size, head, log.consistency(first, size))
        before = head
    assert metrics.LOG_ENTRIES._value.get() == 21
    log.close()


def test_entries_are_found_by_their_hash(log: CommitmentLog) -> None:
    log._append([b"one", b"two", b"one"])
    assert log.find(leaf_hash(b"one")) == 0
    assert log.find(leaf_hash(b"two")) == 1
    assert log.find(leaf_hash(b"three")) is None
    log.close()


def test_a_log_goes_on_after_a_restart_under_its_name(log: CommitmentLog, tmp_path: Path) -> None:
    log._append(_entries(5))
    name, _, head = log.head()
    log.close()
    again = CommitmentLog(tmp_path / "store")
    again.open()
    assert again.head() == (name, 5, head)
    assert again._append([b"next"]) == 5
    assert extends(5, head, 6, again.head()[2], again.consistency(5, 6))
    again.close()
    other = CommitmentLog(tmp_path / "other")
    other.open()
    assert other.head()[0] != name
    other.close()


def _append_until_killed(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    log = CommitmentLog(folder)
    log.open()
    number = 0
    while True:
        log._append([b"%d" % number, b"%d" % (number + 1)])
        number += 2
        if number == 20:
            ready.set()


def test_a_process_that_is_killed_leaves_whole_transactions(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_append_until_killed, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    log = CommitmentLog(tmp_path)
    log.open()
    _, size, head = log.head()
    assert size >= 20
    assert size % 2 == 0
    for number in (0, 7, size - 1):
        leaf, path = log.inclusion(number, size)
        assert leaf == leaf_hash(b"%d" % number)
        assert includes(leaf, number, size, path, head)
    assert log._append([b"next"]) == size
    log.close()


def test_threads_that_append_together_get_numbers_of_their_own(log: CommitmentLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda _: log._append([b"a", b"b"]), range(24)))
    assert sorted(firsts) == list(range(0, 48, 2))
    log.close()


def test_nobody_else_may_read_it(log: CommitmentLog, tmp_path: Path) -> None:
    log._append([b"one"])
    for path in (tmp_path / "store").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    log.close()


def test_a_log_that_is_full_says_so_and_goes_on_when_there_is_room(log: CommitmentLog) -> None:
    log._append([b"one"])
    before = metrics.LOG_FAILURES._value.get()
    assert log._writer is not None
    log._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(NotReady) as failed:
        log._append(_entries(1000))
    assert (failed.value.status, failed.value.code) == (503, "log_unavailable")
    assert metrics.LOG_FAILURES._value.get() == before + 1
    assert log.head()[1] == 1
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert log._append([b"two"]) == 1
    log.close()


def test_a_log_without_room_is_known_before_an_entry_needs_it(log: CommitmentLog) -> None:
    log._probe()
    assert log._writer is not None
    pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count = {pages}")
    log._probe()  # what it has written before and deleted is room
    log._append(_entries(60))
    assert log.problems() == {}
    with pytest.raises(NotReady):
        log._probe()
    assert log.problems() == {"log": "cannot be written"}
    assert log._append([b"next"]) == 60, "the probe fails first"
    log._writer.execute("PRAGMA max_page_count = 1000000")
    log._probe()
    assert log.problems() == {}
    log.close()


@pytest.mark.parametrize("fault", ["deleted", "exchanged"])
def test_a_log_whose_file_is_gone_takes_nothing(log: CommitmentLog, tmp_path: Path, fault: str) -> None:
    log._append([b"one"])
    file = tmp_path / "store" / FILE
    file.unlink()
    if fault == "exchanged":
        CommitmentLog(tmp_path / "store").open()
    with pytest.raises(NotReady):
        log._append([b"two"])
    with pytest.raises(NotReady):
        log._probe()
    assert log.problems()
    log.close()


def test_a_closed_log_takes_nothing(log: CommitmentLog) -> None:
    log.close()
    with pytest.raises(NotReady):
        log._append([b"one"])
    with pytest.raises(NotReady):
        log.head()


@pytest.mark.parametrize("fault", ["no database", "another table", "a folder"])
def test_a_file_that_is_no_log_ends_the_start(tmp_path: Path, fault: str) -> None:
    file = tmp_path / FILE
    if fault == "no database":
        file.write_text("certificates" * 1000)
    elif fault == "a folder":
        file.mkdir()
    else:
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE log (other INTEGER)")
        connection.close()
    with pytest.raises(SmoothgateError) as refused:
        CommitmentLog(tmp_path).open()
    assert refused.value.code == "bad_log"

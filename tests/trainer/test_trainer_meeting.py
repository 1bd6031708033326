"""Processes that are started again and again find those of their own attempt, and what all of them can use."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch._C._distributed_c10d import Store, TCPStore

from trainer.joining import store_of_attempt

SECONDS = timedelta(seconds=20)


def test_a_store_in_which_earlier_attempts_broke_off_is_no_hindrance() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=SECONDS)

    def join(rank: int) -> Store:
        client = TCPStore("127.0.0.1", server.port, is_master=False, timeout=SECONDS)
        return store_of_attempt(client, rank, 3, SECONDS)

    def comes_alone(rank: int) -> None:
        with pytest.raises(RuntimeError):
            store_of_attempt(server, rank, 3, timedelta(seconds=0.1))

    for number in range(3):
        comes_alone(rank=1)
        comes_alone(rank=0)
        comes_alone(rank=2)
        with ThreadPoolExecutor(3) as threads:
            stores = list(threads.map(join, range(3)))
        assert not any(store.check(["attempt"]) for store in stores)
        stores[number].set("attempt", str(number))
        assert {store.get("attempt") for store in stores} == {str(number).encode()}


@pytest.fixture(scope="module")
def told() -> list[tuple[int, dict[str, Any]]]:
    """The exit status of each of two processes and what it said. They meet at a store that is not theirs."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=SECONDS)
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("meeting_process.py"))],
            env={**os.environ, **world, "TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        texts = [process.communicate(timeout=100)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    facts = [{k: v for line in text.splitlines() for k, v in json.loads(line).items()} for text in texts]
    return [(process.returncode, each) for process, each in zip(processes, facts, strict=True)]


def test_processes_whose_restarts_were_counted_differently_meet_and_do_without_nccl_where_it_is_not(told: Any) -> None:
    assert [facts["nccl"] for _, facts in told] == ["gloo", "gloo"]


def test_processes_of_which_one_alone_has_a_gpu_are_refused_by_rank_and_machine(told: Any) -> None:
    expected = f"DeviceError: 1 of 2 processes have a GPU, but rank 0 on {socket.gethostname()} finds none: look at the"
    assert all(facts["devices"].startswith(expected) for _, facts in told)


def test_nccl_that_does_not_answer_on_one_process_is_given_up_on_all(told: Any) -> None:
    expected = "CollectiveError: NCCL does not work here within 0.5 s (rank 0: "
    assert all(facts["silent"].startswith(expected) for _, facts in told)
    assert all('rank 1: it does not answer): set backend to "gloo"' in facts["silent"] for _, facts in told)


def test_a_process_that_could_not_leave_its_group_ends_all_the_same(told: Any) -> None:
    assert [(status, facts["has_left"]) for status, facts in told] == [(7, False), (7, False)]

"""The processes that a training starts: they do not hear what is said to it, and do not outlive it."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_PATIENCE_SECONDS = 5.0


@contextmanager
def children_without_signals() -> Iterator[None]:
    """Processes started here never hear SIGTERM and SIGINT, which torchrun and a terminal send to all of the group.

    A loading process that died of one would end the training before it has saved its state. One whose training is gone
    ends by itself. Blocked signals stay so in children, from their first moment; this process hears its own afterwards.
    """
    resource_tracker.ensure_running()  # of multiprocessing: where it still has to be started, that unblocks both
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def no_child_left() -> Iterator[None]:
    """Kill what processes the block has started and left: Python ends its own with a SIGTERM, which they do not hear,
    and waits for ever."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        if left := set(multiprocessing.active_children()) - before:
            _kill(left)


def _kill(children: set[multiprocessing.process.BaseProcess]) -> None:
    # A loader that is still there hears of each death by SIGCHLD, and would raise an error in the place of the first.
    may_hear = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if may_hear else None
    for child in children:
        child.kill()
    for child in children:
        child.join(_PATIENCE_SECONDS)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)

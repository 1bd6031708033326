"""Signals that end a run are not lost."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

_SECONDS = 0.05


@contextmanager
def interruptions_sent_again() -> Iterator[None]:
    """For the length of the block, a signal that strikes where Python ignores exceptions is sent again.

    In a destructor or a weak reference's callback the exception of its handler would only be printed, and the run would
    go on as if nobody had asked it to end.

    Raises:
        KeyboardInterrupt: at the end, if one could not be delivered before.
    """
    before, pending = sys.unraisablehook, list[threading.Timer]()

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | dg.DagsterExecutionInterruptedError):
            pending.append(threading.Timer(_SECONDS, os.kill, (os.getpid(), signal.SIGINT)))
            pending[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in pending:
            timer.join()

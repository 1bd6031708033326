"""SIGTERM and SIGINT as a wish that the training loop grants after its step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def make(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ask for it; also a signal handler."""
        self.made = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """A request that SIGTERM and SIGINT make, until the handlers there were are put back.

    Outside the main thread, where Python allows no handlers, no signal makes it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.make) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""What a job reports through Dagster Pipes, read so that it can be read again.

Two ways to this process: an append-only file of the job on a volume that both sides see, or the log of node 0. Neither
is emptied or removed by reading, so a second process that adopts the job reads all of it from its beginning.

Results count only at the end, and only those of the last process that opened Pipes: a job whose processes were
restarted may have reported a result before it failed.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import PipesMessageHandler, PipesMessageReader
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesDefaultMessageWriter, PipesParams

_MARK = f'{{"{PIPES_PROTOCOL_VERSION_FIELD}"'
_SHOWN_CHARACTERS = 200
_RESULTS = ("report_asset_materialization", "report_asset_check")


class JobMessages(PipesMessageReader):
    """The messages of one job. Not read in a thread: the client, which follows the job anyway, calls `poll`.

    Args:
        file: the job's message file; None if the messages are in the log of node 0, whose lines come to `take_line`.

    Attributes:
        custom: the custom messages so far.
        garbled: what cannot be read, with its place.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._offset = 0
        self._handler: PipesMessageHandler | None = None
        self._results: list[Any] = []
        self._opened: Any = None
        self._closed: Any = None
        self.custom: list[Any] = []
        self.garbled: list[str] = []

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Where the job is to write its messages."""
        self._handler = handler
        if self._file is None:
            yield {PipesDefaultMessageWriter.STDIO_KEY: PipesDefaultMessageWriter.STDOUT}
        else:
            yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._file)}

    def no_messages_debug_text(self) -> str:
        """Where messages were looked for."""
        return f"Looked for messages in {self._file or 'the log of node 0'}."

    @property
    def in_log(self) -> bool:
        """They come through the log of node 0."""
        return self._file is None

    @property
    def closed(self) -> bool:
        """The last process that opened Pipes has closed it."""
        return self._closed is not None

    @property
    def exception(self) -> str:
        """What ended the job while Pipes was open, in the words of the exception; empty if none did."""
        exception = ((self._closed or {}).get("params") or {}).get("exception")
        return str(exception["message"]).strip() if exception else ""

    def poll(self, *, last: bool = False) -> None:
        """Read what the file has gained. With ``last``, its end counts even without a newline."""
        if self._file is None or not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        complete = len(written) if last else written.rfind(b"\n") + 1
        self._offset += complete
        for line in written[:complete].split(b"\n"):
            if not line.strip():
                continue
            message = _parsed(line)
            if message is None:
                self._note_garbled(f"{self._file.name}, before byte {self._offset}", line.decode(errors="replace"))
            else:
                self._take(message)

    def take_line(self, line: str) -> str | None:
        """Take the message in a line of node 0's log, if there is one; returns what of the line is none.

        Where a process wrote without a newline before, the message is found behind that.
        """
        start = line.find(_MARK)
        if self._file is not None or start < 0:
            return line
        message = _parsed(line[start:].encode())
        if message is None:
            self._note_garbled("log of node 0", line[start:])
        else:
            self._take(message)
        return line[:start] or None

    def finish(self) -> None:
        """Pass on what was held back until the job's end: the results, and that Pipes was closed."""
        for message in [*self._results, self._closed]:
            if message is not None:
                self._handle(message)

    def _take(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method == "opened":
            if self._opened is None:
                self._handle(message)
            self._opened, self._closed = message, None
            self._results.clear()
        elif method == "closed":
            self._closed = message
        elif method in _RESULTS:
            self._results.append(message)
        elif self._handle(message) and method == "report_custom_message":
            self.custom.append(message["params"]["payload"])

    def _handle(self, message: dict[str, Any]) -> bool:
        assert self._handler is not None  # noqa: S101 - set by the session before anything is read
        try:
            self._handler.handle_message(message)  # type: ignore[arg-type]
        except Exception as error:  # whatever is wrong with a message from outside is its fault
            self._note_garbled(f"message refused ({error})", json.dumps(message))
            return False
        return True

    def _note_garbled(self, place: str, text: str) -> None:
        self.garbled.append(f"{place}: {text[:_SHOWN_CHARACTERS]!r}")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and PIPES_PROTOCOL_VERSION_FIELD in message else None


def error_reports(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Those of the custom messages that say why the job failed: ``{"type": "error", "kind": …, "message": …}``."""
    return [each for each in messages if isinstance(each, dict) and each.get("type") == "error"]

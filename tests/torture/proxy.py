"""A TCP proxy in front of PostgreSQL, which can cut all its connections or let nothing through for a while."""

import contextlib
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset


class Proxy:
    """Listens on ``port``; each connection goes on to the server's unix socket."""

    def __init__(self, sockets: str) -> None:
        self._target = str(Path(sockets) / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._stalled_until = 0.0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.reset()

    def reset(self) -> int:
        """Cut every connection without a word. Returns how many there were."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        return len(pairs)

    def stall(self, seconds: float) -> int:
        """Let nothing through for so long. Returns how many connections there are."""
        self._stalled_until = time.monotonic() + seconds
        return len(self._pairs)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:
                    client.close()
                    continue
                self._pairs.append((client, server))
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                readable, _, _ = select.select([client, server], [], [], 1)
                time.sleep(max(0.0, self._stalled_until - time.monotonic()))
                for end in readable:
                    data = end.recv(65_536)
                    if not data:
                        raise OSError("closed")
                    (server if end is client else client).sendall(data)
        for end in (client, server):
            end.close()
        with contextlib.suppress(ValueError):
            self._pairs.remove((client, server))

"""Clients of a model service: one that only waits for answers, and many at once, on connections that they keep."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_UNMEASURED = 20
_STEP = 7919  # from one body to the next: others each time, from all over the list


def ask_alone(port: int, bodies: Sequence[Any], *, requests: int) -> list[float]:
    """Milliseconds of each request of a client that does nothing but wait for the answer, after a few unmeasured."""
    contents = [_message(json.dumps(body).encode()) for body in bodies]
    times = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(-_UNMEASURED, requests):
            started = time.perf_counter()
            connection.sendall(contents[n * _STEP % len(contents)])
            answer = connection.recv(65_536)
            while len(answer) < _length(answer):
                answer += connection.recv(65_536)
            if n >= 0:
                times.append((time.perf_counter() - started) * 1e3)
    return times


def ask(
    port: int, bodies: Sequence[Any], *, clients: int, requests: int, limit: float = 1e9
) -> tuple[list[float], float]:
    """Milliseconds of each request of so many clients, and the seconds of all.

    Each client sends one unmeasured request first; the clock starts when all of these are answered.

    Args:
        limit: seconds after which no more requests are sent.
    """
    return asyncio.run(_ask(port, bodies, clients, requests, limit))


def forecasts(port: int, keys: Sequence[Any]) -> npt.NDArray[np.float64]:
    """The forecast of each key, in dollars, asked for in one request."""
    return asyncio.run(_forecasts(port, keys))


async def _ask(
    port: int, bodies: Sequence[Any], clients: int, requests: int, limit: float
) -> tuple[list[float], float]:
    contents = [json.dumps(body).encode() for body in bodies]
    times: list[float] = []
    turn = iter(range(requests))
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(_request(*stream, contents[n % len(contents)]) for n, stream in enumerate(streams)))
    started = time.perf_counter()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for n in turn:
            sent = time.perf_counter()
            if sent > started + limit:
                break
            await _request(reader, writer, contents[n * _STEP % len(contents)])
            times.append((time.perf_counter() - sent) * 1e3)

    await asyncio.gather(*(client(*stream) for stream in streams))
    seconds = time.perf_counter() - started
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()
    return times, seconds


async def _forecasts(port: int, keys: Sequence[Any]) -> npt.NDArray[np.float64]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = json.loads(await _request(reader, writer, json.dumps(keys).encode()))
    writer.close()
    await writer.wait_closed()
    return np.array([row["forecast"] for row in answer], dtype=np.float64)


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bytes:
    writer.write(_message(body))
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(_length(head)) - len(head))


def _message(body: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _length(answer: bytes) -> float:
    """Of the whole answer; as long as its head is not there, without end."""
    head, ended, _ = answer.partition(b"\r\n\r\n")
    if not ended:
        return float("inf")
    length = re.search(rb"content-length: (\d+)", head)
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise SystemExit(f"the service answered {head.decode()}")
    return len(head) + len(ended) + int(length[1])

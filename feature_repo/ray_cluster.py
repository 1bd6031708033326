"""Which Ray cluster this process uses, if any: ``FEAST_RAY_ADDRESS``."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VARIABLE = "FEAST_RAY_ADDRESS"


def configured_address() -> str | None:
    """The address in ``FEAST_RAY_ADDRESS``, or None where it is not set: no Ray then.

    ``local`` is a Ray of this process's own, ``auto`` the cluster that this machine is part of, ``ray://host:10001`` a
    remote one, such as KubeRay's head service.
    """
    return os.environ.get(VARIABLE) or None


@contextmanager
def connected(address: str, **options: Any) -> Iterator[None]:
    """Ray for the length of the block; one that is connected already is used and left as it is.

    Args:
        address: as in ``configured_address``.
        options: passed on to ``ray.init``, such as ``num_cpus`` of a local Ray.

    Raises:
        ImportError: Ray is not installed: it is the extra ``ray``.
        ConnectionError: there is no cluster at the address.
        ValueError: the address is none of ``local``, ``auto``, ``ray://host:port`` and ``host:port``.
    """
    if address not in {"local", "auto"} and ":" not in address:
        raise ValueError(
            f"{VARIABLE} is {address!r}, which is not a Ray address: set it to local, auto or ray://host:10001, "
            "or leave it unset to work without Ray"
        )
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{VARIABLE} is set, but Ray is not installed: pip install 'forecast-assets[ray]'") from error

    if is_connected():
        yield
        return
    # What the tasks print is Feast's warnings, once per task; their errors come with their results.
    if address == "local":
        options = {"include_dashboard": False, **options}
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False, **options)
    except ConnectionError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {VARIABLE}={address} ({error}): start it, or leave {VARIABLE} unset to work "
            "without Ray"
        ) from error
    try:
        yield
    finally:
        disconnect()


def is_connected() -> bool:
    """Whether this process uses a Ray already, whoever connected it."""
    import ray

    return bool(ray.is_initialized())


def disconnect() -> None:
    """Leave the cluster; one of this process's own ends."""
    # Not Ray's own function: Feast remembers that it is connected, and would start a Ray elsewhere next time.
    from feast.infra.ray_initializer import shutdown_ray

    shutdown_ray()

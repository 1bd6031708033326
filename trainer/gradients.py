"""The group that gradients are averaged in: NCCL (RCCL on AMD) if every process has a GPU and NCCL works, else gloo."""

import logging
import socket
import threading
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from trainer.distributed import World, check_sum
from trainer.errors import CollectiveError, DeviceError
from trainer.spec import TrainSpec

_logger = logging.getLogger("trainer")
_CHECK_SECONDS = 120.0


def with_gradient_group(world: World, spec: TrainSpec) -> World:
    """The same world with that group. To be called by all processes alike.

    Raises:
        DeviceError: some processes have a GPU and others have none; on all.
        CollectiveError: NCCL does not answer on some; on all.
    """
    if world.size == 1:
        return world
    _require_like_devices(world)
    everyone: dist.ProcessGroup = dist.group.WORLD  # type: ignore[assignment]
    wanted = spec.backend == "nccl" or (spec.backend == "auto" and world.device.type == "cuda")
    return replace(world, gradients=(_nccl_group(world, spec) if wanted else None) or everyone)


def _require_like_devices(world: World) -> None:
    told = world.gather(f"{world.device.type} {socket.gethostname()}")
    devices, hosts = zip(*(each.split(" ", 1) for each in told), strict=True)
    if len(set(devices)) > 1:
        lacking = [f"{rank} on {host}" for rank, host in enumerate(hosts) if devices[rank] == "cpu"]
        raise DeviceError(
            f"{world.size - len(lacking)} of {world.size} processes have a GPU, but rank {', rank '.join(lacking)} "
            "finds none: look at the driver there, or hide all GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs"
        )


def _nccl_group(world: World, spec: TrainSpec) -> dist.ProcessGroup | None:
    """None, with a message, if NCCL refuses to work on any process."""
    seconds = min(_CHECK_SECONDS, spec.timeout_sec / 2)
    made: list[dist.ProcessGroup] = []
    problems: list[str] = []

    def make() -> None:
        try:
            if world.device.type == "cuda":
                torch.cuda.set_device(world.device)  # of this thread
            group = dist.new_group(backend="nccl", timeout=timedelta(seconds=spec.timeout_sec))
            check_sum(group, world.device)
            made.append(group)
        except (RuntimeError, ValueError) as error:
            problems.append(str(error).splitlines()[0])

    # Where one process cannot begin, NCCL lets the others wait for it, where nothing can interrupt them.
    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join(seconds)
    told = world.gather("it does not answer" if maker.is_alive() else "".join(problems))
    found = [f"rank {rank}: {problem}" for rank, problem in enumerate(told) if problem]
    if "it does not answer" in told:
        raise CollectiveError(
            f'NCCL does not work here within {seconds:g} s ({"; ".join(found)}): set backend to "gloo", or look at the '
            "GPUs and the network between them"
        )
    if found and world.rank == 0:
        _logger.warning("NCCL does not work here, gradients go through gloo: %s", found[0])
    return None if found else made[0]

"""What a training takes of its GPU."""

import logging
from functools import cache
from typing import TypedDict

import torch

_logger = logging.getLogger("trainer")


class DeviceUsage(TypedDict):
    """gpu_utilization: percent; memory_allocated_gb: GiB at the peak. None where there is nothing to measure."""

    gpu_utilization: float | None
    memory_allocated_gb: float | None


def device_usage(device: torch.device) -> DeviceUsage:
    """The utilization now, and the peak of allocated memory since the last call."""
    if device.type != "cuda":
        return {"gpu_utilization": None, "memory_allocated_gb": None}
    allocated = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    try:
        utilization = float(torch.cuda.utilization(device))
    except Exception as error:  # those of the drivers' Python bindings have no other base; MIG devices are refused
        _warn_once(str(error))
        return {"gpu_utilization": None, "memory_allocated_gb": allocated}
    return {"gpu_utilization": utilization, "memory_allocated_gb": allocated}


@cache
def _warn_once(problem: str) -> None:
    _logger.warning("the utilization of the GPU is not known: %s", problem)

"""What a training asks of each of its nodes, from the size of its frame."""

import math
from dataclasses import dataclass

_GIB = 2**30
_BYTES_PER_CELL = 8
# An interpreter with torch and Arrow loaded, before it has read anything.
_BASE_BYTES = 0.6 * _GIB
# The frame as Arrow, as features in 64 and 32 bits, and as tensors; measured on the MLP at 421,570 rows.
_COPIES_OF_FRAME = 5
# Rows that keep one CPU busy without the processes waiting for each other most of the time.
_ROWS_PER_PROCESS = 150_000
_MARGIN = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDemand:
    """What a kind of model needs beside the frame.

    Attributes:
        window_weeks: weeks of history that it reads of each row; 0 for none.
        rows_per_gpu: rows from which a GPU of its own pays; None if it never does.
    """

    window_weeks: int = 0
    rows_per_gpu: int | None = None


DEMANDS = {"mlp": ModelDemand(), "tft": ModelDemand(window_weeks=52, rows_per_gpu=100_000)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceLimits:
    """The most that a training may ask for: nodes, and CPUs, GiB of memory and GPUs of each."""

    nodes: int = 1
    cpus: int = 2
    memory_gib: float = 16.0
    gpus: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResources:
    """What a training asks for.

    Attributes:
        nodes: number of nodes.
        cpus, memory_gib, gpus: of each. One process runs per GPU or, without GPUs, per CPU.
        limited: what would have been more without the limits, for people; empty if nothing.
    """

    nodes: int
    cpus: int
    memory_gib: float
    gpus: int
    limited: tuple[str, ...] = ()

    def per_node(self) -> dict[str, int | str]:
        """``resources_per_node`` of the Kubeflow SDK."""
        resources: dict[str, int | str] = {"cpu": self.cpus, "memory": f"{round(self.memory_gib * 1024)}Mi"}
        return resources | ({"gpu": self.gpus} if self.gpus else {})


def training_resources(*, rows: int, columns: int, model_type: str, limits: ResourceLimits) -> TrainingResources:
    """What a training on a frame of ``rows`` times ``columns`` asks for.

    As many processes as keep busy, on as few nodes as hold them; each process reads the whole frame, so that memory
    grows with the processes of a node.
    """
    demand = DEMANDS.get(model_type, ModelDemand())
    processes = max(1, math.ceil(rows / _ROWS_PER_PROCESS))
    gpus = 0 if demand.rows_per_gpu is None or limits.gpus == 0 else max(1, math.ceil(rows / demand.rows_per_gpu))
    most_per_node = limits.gpus if gpus else limits.cpus
    wanted = gpus or processes
    nodes = min(limits.nodes, math.ceil(wanted / most_per_node))
    per_node = min(most_per_node, math.ceil(wanted / nodes))
    window_cells = rows * demand.window_weeks
    bytes_per_process = _BASE_BYTES + (rows * columns * _COPIES_OF_FRAME + window_cells) * _BYTES_PER_CELL
    memory_gib = math.ceil(per_node * bytes_per_process * _MARGIN / _GIB * 4) / 4
    limited = []
    if nodes * per_node < wanted:
        limited.append(f"{nodes * per_node} of {wanted} processes")
    if memory_gib > limits.memory_gib:
        limited.append(f"{limits.memory_gib:g} of {memory_gib:g} GiB")
    return TrainingResources(
        nodes=nodes,
        cpus=min(limits.cpus, 2 * per_node) if gpus else per_node,
        memory_gib=min(memory_gib, limits.memory_gib),
        gpus=per_node if gpus else 0,
        limited=tuple(limited),
    )

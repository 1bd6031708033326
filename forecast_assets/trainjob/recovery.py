"""What is tried after a failure: a policy of plain data, and its application.

    policy = {
        "out_of_memory": Remedy("more memory", memory_factor=1.5),
        "cuda_out_of_memory": Remedy("half the batch", multiply={"batch_size": 0.5}),
        "node_lost": Remedy("the same again"),
    }

The keys are the ``kind`` of `errors`; what is not in the policy is not tried again. That an attempt goes on from the
last checkpoint is the job's business: it finds it where the one before has left it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Remedy:
    """What the next attempt does differently.

    Attributes:
        description: for people, such as "half the batch".
        replace: fields of the spec and their new values.
        multiply: numeric fields of the spec and the factor; an integer stays one, and at least 1.
        memory_factor: for the memory of each node, where the job asks for an amount.
    """

    description: str
    replace: Mapping[str, Any] = field(default_factory=dict)
    multiply: Mapping[str, float] = field(default_factory=dict)
    memory_factor: float = 1.0

    def adjusted_spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """``spec`` as the next attempt takes it. A field that it does not have is not multiplied."""
        factors = {name: factor for name, factor in self.multiply.items() if name in spec}
        return {
            **spec,
            **self.replace,
            **{name: _multiplied(spec[name], factor) for name, factor in factors.items()},
        }

    def adjusted_resources(self, resources: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Resources of a node as the next attempt asks for them."""
        if resources is None or "memory" not in resources:
            return None if resources is None else dict(resources)
        return {**resources, "memory": scaled_quantity(resources["memory"], self.memory_factor)}


RecoveryPolicy = Mapping[str, Remedy]
NO_RECOVERY: RecoveryPolicy = {}


def scaled_quantity(quantity: Any, factor: float) -> str:
    """A quantity of Kubernetes, such as "1.5Gi", times ``factor``.

    Raises:
        ValueError: not a quantity.
    """
    matched = _QUANTITY.fullmatch(str(quantity))
    if matched is None:
        raise ValueError(f"{quantity!r} is not a quantity such as '4Gi' or '512Mi'")
    return f"{float(matched[1]) * factor:.6g}{matched[2]}"


def _multiplied(value: float, factor: float) -> float:
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor

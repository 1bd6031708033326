"""The state of torch's random streams as JSON values, for checkpoints."""

import torch


def rng_state(device: torch.device) -> dict[str, str]:
    """The state of the CPU's stream, and of the device's where it has its own."""
    state = {"cpu": torch.get_rng_state().numpy().tobytes().hex()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes().hex()
    return state


def restore_rng(state: dict[str, str], device: torch.device) -> None:
    """Go on where `rng_state` was taken."""
    torch.set_rng_state(_byte_tensor(state["cpu"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_byte_tensor(state["cuda"]), device)


def _byte_tensor(content: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(content), dtype=torch.uint8)

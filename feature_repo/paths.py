"""Where the project keeps what it writes."""

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def data_dir() -> Path:
    """The folder for everything the project writes: ``FORECAST_DATA_DIR``, or ``var/`` in the checkout.

    Raises:
        RuntimeError: the project is installed outside a checkout and ``FORECAST_DATA_DIR`` is not set.
    """
    configured = os.environ.get("FORECAST_DATA_DIR")
    if configured:
        return Path(configured).expanduser().resolve()
    if not (PROJECT_ROOT / "pyproject.toml").exists():
        raise RuntimeError("FORECAST_DATA_DIR is not set: outside a checkout, set it to the folder to write to")
    return PROJECT_ROOT / "var"

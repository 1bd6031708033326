"""Which trainer this is."""

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent


def code_version() -> str:
    """sha256 over the sources of this package: what they are, not where they lie or which release they are of."""
    code = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.py")):
        code.update(source.read_bytes())
    return code.hexdigest()

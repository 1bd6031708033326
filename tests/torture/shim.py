"""A library put before the C library (``LD_PRELOAD``): it lets fsync fail and the clock jump, for who asks for it."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


def compile_shim(folder: Path) -> None:
    """Make the library in ``folder``, if there is a C compiler."""
    compiler = shutil.which("cc")
    if compiler is not None:
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", str(SOURCE), "-o", str(shim_of(folder)), "-ldl"]
        subprocess.run(command, check=True)


def shim_of(folder: Path) -> Path:
    """Where the library is."""
    return folder / "shim.so"

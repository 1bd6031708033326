"""The project's SQL statements, one file each."""

from importlib.resources import files


def statement(name: str) -> str:
    """The text of ``name``.sql."""
    return files(__name__).joinpath(f"{name}.sql").read_text()

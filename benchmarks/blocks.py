"""Text between two comments of a document, which programs write."""

from pathlib import Path


def with_block(text: str, begin: str, end: str, block: str) -> str:
    """``text`` with ``block`` on the lines between the comments ``begin`` and ``end``.

    Raises:
        ValueError: it lacks one of the comments.
    """
    before, begun, rest = text.partition(f"{begin}\n")
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the document lacks the lines {begin} and {end}")
    return f"{before}{begin}\n{block.rstrip()}\n{end}{after}"


def write_block(document: Path, name: str, lines: list[str]) -> None:
    """Write what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a document."""
    text = with_block(document.read_text(), f"<!-- {name} -->", f"<!-- /{name} -->", "\n".join(lines))
    document.write_text(text)

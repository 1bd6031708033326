"""What the UI shows of an asset: tables, schemas and small pictures, under stable keys."""

import base64
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from feature_repo.features import TIMESTAMP, Feature
from forecast_assets.drift import Stability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def column_schema(schema: pa.Schema, descriptions: Mapping[str, str] | None = None) -> dg.TableSchema:
    """An Arrow schema as Dagster shows it, with descriptions where there are any."""
    descriptions = descriptions or {}
    return dg.TableSchema(
        [dg.TableColumn(field.name, str(field.type), descriptions.get(field.name)) for field in schema]
    )


def feature_schema(keys: Sequence[str], features: Iterable[Feature]) -> dg.TableSchema:
    """The schema of whatever Feast gives by ``keys``, as the feature list says it."""
    columns = [dg.TableColumn(key, "int64", f"The {key}") for key in keys]
    week = dg.TableColumn(TIMESTAMP, "timestamp", "The week that the values are for")
    return dg.TableSchema([*columns, week, *(dg.TableColumn(f.name, f.type, f.description) for f in features)])


def sql(statement: str) -> dg.MetadataValue[Any]:
    """A statement as it was sent."""
    return dg.MetadataValue.md(f"```sql\n{statement.strip()}\n```")


def seconds_since(started: float) -> float:
    """How long it took, from a ``time.monotonic()`` on."""
    return round(time.monotonic() - started, 2)


def stability_table(columns: Sequence[Stability]) -> dg.MetadataValue[Any]:
    """Each column's population stability index beside its bound."""
    return markdown_table(
        ("column", "stability index", "bound", ""),
        [(c.column, f"{c.index:.2f}", f"{c.bound:.2f}", "moved" if c.drifted else "") for c in columns],
    )


def null_rates(table: pa.Table) -> dg.MetadataValue[Any]:
    """The share of missing values of each column that has any, as a Markdown table."""
    rows = [
        (name, f"{table[name].null_count / max(table.num_rows, 1):.1%}")
        for name in table.column_names
        if table[name].null_count
    ]
    return markdown_table(("column", "missing"), rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MetadataValue[Any]:
    """Rows as a Markdown table; columns after the first are aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def new_figure(width: float = 7.0, height: float = 2.8) -> "Figure":
    """A figure drawn without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=90, layout="constrained")


def short_dates(axes: "Axes") -> None:
    """Few dates on the x axis, written so that they do not run into each other."""
    from matplotlib.dates import MONTHLY, AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=6)
    locator.intervald[MONTHLY] = [1, 2, 3, 4, 6, 12]  # without 12, it finds nothing for three or four years
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def weekly_totals(weeks: pa.ChunkedArray, sales: pa.ChunkedArray) -> "Figure":
    """Total sales per week in millions of dollars."""
    totals = pa.table({"week": weeks, "sales": sales}).group_by("week").aggregate([("sales", "sum")]).sort_by("week")
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(totals["week"].to_numpy(), totals["sales_sum"].to_numpy() / 1e6, linewidth=1.2)
    axes.set_ylabel("sales, million $")
    short_dates(axes)
    axes.set_ylim(bottom=0)
    return figure


def picture(figure: "Figure", saved_as: Path) -> dg.MetadataValue[Any]:
    """The figure as a picture in the UI; also written to ``saved_as`` for those who look without it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    saved_as.parent.mkdir(parents=True, exist_ok=True)
    saved_as.write_bytes(buffer.getvalue())
    return embedded_picture(saved_as)


def embedded_picture(path: Path) -> dg.MetadataValue[Any]:
    """A PNG file as a picture in the UI."""
    return dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")

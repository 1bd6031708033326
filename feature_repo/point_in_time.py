"""The SQL of a point-in-time join: for each entity row and feature view, the newest feature row that counts.

A feature row counts if it is not newer than the entity row, not older than the view's ttl and, where that is asked
for, had been created by then. Of rows with the same event time the one created last wins; of those, the largest as
text, so that neither the plan nor the order of rows on disk can change a result.

Three plans give the same rows. Which of them is fast depends on the indexes of the view's source:

* ``LOOKUP``: an index on (join keys, event time). Each entity row looks its feature row up.
* ``EXACT``: that index, and no two rows share keys and event time. Entity rows whose very moment is in the source are
  joined by a hash join, several times faster than one by one, and only the others look theirs up.
* ``MERGE``: no such index. Both sides are sorted together once, and each entity row takes the last feature row before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

_ROW = '"entity row number"'
_TIME = '"entity row time"'


class Plan(Enum):
    """How a view's rows are found."""

    LOOKUP = auto()
    EXACT = auto()
    MERGE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewQuery:
    """What is wanted of one feature view, in its source's column names.

    Attributes:
        source: a table name or a parenthesised query.
        keys: pairs of an entity column and the source column that it equals; none for a view without entities.
        features: pairs of a source column and its name in the result.
        created: the column that says when a row was written; breaks ties.
        only_created: leave out rows that had not been created at the entity row's time.
        ttl: the greatest age that counts; None for any.
    """

    source: str
    timestamp: str
    keys: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]
    created: str | None = None
    only_created: bool = False
    ttl: timedelta | None = None
    plan: Plan = Plan.MERGE


def quote(identifier: str) -> str:
    """The name as an SQL identifier, its case kept."""
    return '"' + identifier.replace('"', '""') + '"'


def point_in_time_query(entity_rows: str, columns: Sequence[str], timestamp: str, views: Sequence[ViewQuery]) -> str:
    """The statement that gives each entity row, in order, its columns and the features that count at its time.

    Args:
        entity_rows: a table name or a parenthesised query.
        columns: its columns, all of which are kept.
        timestamp: the one that holds the time of each entity row; without a zone it is read as the session's.
        views: what to join.
    """
    parts = [_PARTS[view.plan](view, str(number)) for number, view in enumerate(views)]
    tables = [
        f"e AS (SELECT q.*, CAST({quote(timestamp)} AS timestamptz) AS {_TIME}, "  # noqa: S608 - identifiers are quoted
        f"row_number() OVER () AS {_ROW} FROM {entity_rows} q)"
    ]
    selected = [f"e.{quote(column)}" for column in columns]
    for part in parts:
        tables += part.tables
        selected += part.selected
    joins = "".join(f"\n{join}" for part in parts for join in part.joins)
    return f"WITH {', '.join(tables)}\nSELECT {', '.join(selected)}\nFROM e{joins}\nORDER BY e.{_ROW}"


def events_query(views: Sequence[ViewQuery], start: datetime, end: datetime, timestamp: str) -> str:
    """Each (entity, time) between the dates, both included, at which one of the views has a row.

    Views that are keyed by fewer columns than others have events of no single entity, and add none.

    Raises:
        ValueError: no view has all of the join keys.
    """
    keys = list(dict.fromkeys(key for view in views for key, _ in view.keys))
    complete = [view for view in views if len(view.keys) == len(keys)]
    if not complete:
        raise ValueError(
            f"no feature view has all of the join keys {', '.join(keys)}: "
            "pass entity_df instead of a date range, or ask for these views one by one"
        )
    selects = []
    for view in complete:
        time = f"CAST({quote(view.timestamp)} AS timestamptz)"
        source_columns = {key: quote(source) for key, source in view.keys}
        known = "".join(f" AND {column} IS NOT NULL" for column in source_columns.values())
        named = "".join(f", {source_columns[key]} AS {quote(key)}" for key in keys)
        selects.append(
            f"SELECT {time} AS {quote(timestamp)}{named} FROM {view.source} s "  # noqa: S608
            f"WHERE {time} BETWEEN '{start.isoformat()}' AND '{end.isoformat()}'{known}"
        )
    columns = [timestamp, *keys]
    # UNION of one SELECT removes no duplicates: hence DISTINCT.
    distinct = f"SELECT DISTINCT * FROM ({' UNION ALL '.join(selects)}) events"  # noqa: S608
    return f"({distinct} ORDER BY {', '.join(map(quote, columns))})"


def newest_query(view: ViewQuery, start: datetime, end: datetime) -> str:
    """One row per key, the newest between the dates, with its keys, features, event time and creation time."""
    keys = [quote(source) for _, source in view.keys]
    columns = [*keys, *(quote(source) for source, _ in view.features), quote(view.timestamp)]
    columns += [quote(view.created)] if view.created else []
    distinct = f"DISTINCT ON ({', '.join(keys)}) " if keys else ""
    time = quote(view.timestamp)
    return (
        f"SELECT {distinct}{', '.join(columns)} FROM {view.source} s "  # noqa: S608
        f"WHERE {time} BETWEEN '{start.isoformat()}'::timestamptz AND '{end.isoformat()}'::timestamptz "
        f"ORDER BY {', '.join([*keys, *_newest_first(view)])}" + ("" if keys else " LIMIT 1")
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One view's share of the statement."""

    tables: list[str]
    joins: list[str]
    selected: list[str]


def _lookup(view: ViewQuery, alias: str) -> _Part:
    return _Part([], [_newest_row(view, f"v{alias}")], [f"v{alias}.{_named(feature)}" for feature in view.features])


def _exact(view: ViewQuery, alias: str) -> _Part:
    exact, other = f"x{alias}", f"v{alias}"
    found = f"{exact}.{quote(view.timestamp)} IS NOT NULL"
    same = " AND ".join([*_same_keys(view, exact), f"{exact}.{quote(view.timestamp)} = e.{_TIME}"])
    selected = [
        f"CASE WHEN {found} THEN {exact}.{quote(source)} ELSE {other}.{quote(source)} END AS {quote(output)}"
        for source, output in view.features
    ]
    joins = [f"LEFT JOIN {view.source} {exact} ON {same}", _newest_row(view, other, f"NOT ({found})")]
    return _Part([], joins, selected)


def _merge(view: ViewQuery, alias: str) -> _Part:
    """Source rows are numbered in the order in which they supersede each other within a key.

    The number to take is then the greatest one *visible* so far, whichever order rows became visible in.
    """
    source, match = f"s{alias}", f"m{alias}"
    time = f"CAST(s.{quote(view.timestamp)} AS timestamptz)"
    visible = time
    conditions = [f"{time} <= (SELECT max({_TIME}) FROM e)"]  # noqa: S608
    if view.created and view.only_created:
        visible = f"greatest({time}, CAST(s.{quote(view.created)} AS timestamptz))"
        conditions.append(f"s.{quote(view.created)} IS NOT NULL")
    if view.ttl:
        conditions.append(f"{time} >= (SELECT min({_TIME}) FROM e) - {_interval(view.ttl)}")  # noqa: S608
    conditions += [f"s.{quote(column)} IS NOT NULL" for _, column in view.keys]
    keys = [f"k{number}" for number in range(len(view.keys))]
    features = [f"f{number}" for number in range(len(view.features))]
    columns = [f"s.{quote(column)} AS {key}" for key, (_, column) in zip(keys, view.keys, strict=True)]
    columns += [f"s.{quote(column)} AS {name}" for name, (column, _) in zip(features, view.features, strict=True)]
    columns += [
        f"{time} AS t",
        f"{visible} AS visible",
        f"{f's.{quote(view.created)}' if view.created else 'NULL'} AS made",
    ]
    names = "".join(f"{key}, " for key in keys)
    # Writing rows as text is most of the work where features are many or long: only those that tie are.
    text = f"CASE WHEN copies > 1 THEN {_as_text(features)} END"
    tables = [
        f"{source} AS MATERIALIZED (SELECT {names}{', '.join(features)}, t, visible, "  # noqa: S608
        f"row_number() OVER (ORDER BY {names}t, made NULLS FIRST, {text}) AS number FROM ("
        f"SELECT *, count(*) OVER (PARTITION BY {names}t, made) AS copies FROM ("
        f"SELECT {', '.join(columns)} FROM {view.source} s WHERE {' AND '.join(conditions)}) known) counted)",
        f"{match} AS (SELECT n, max(number) OVER (PARTITION BY {names}TRUE ORDER BY visible, n NULLS FIRST "  # noqa: S608
        f"ROWS UNBOUNDED PRECEDING) AS number FROM ("
        f"SELECT {names}visible, number, NULL::bigint AS n FROM {source} UNION ALL "
        f"SELECT {''.join(f'e.{quote(column)}, ' for column, _ in view.keys)}{_TIME}, NULL, {_ROW} FROM e "
        f"WHERE {_TIME} IS NOT NULL) events)",
    ]
    young = f" AND {source}.t >= e.{_TIME} - {_interval(view.ttl)}" if view.ttl else ""
    joins = [
        f"LEFT JOIN {match} ON {match}.n = e.{_ROW}",
        f"LEFT JOIN {source} ON {source}.number = {match}.number{young}",
    ]
    return _Part(tables, joins, [f"{source}.f{n} AS {quote(output)}" for n, (_, output) in enumerate(view.features)])


_PARTS = {Plan.LOOKUP: _lookup, Plan.EXACT: _exact, Plan.MERGE: _merge}


def _newest_row(view: ViewQuery, alias: str, *conditions: str) -> str:
    time = f"s.{quote(view.timestamp)}"
    where = [*conditions, *_same_keys(view, "s"), f"{time} <= e.{_TIME}"]
    if view.ttl:
        where.append(f"{time} >= e.{_TIME} - {_interval(view.ttl)}")
    if view.created and view.only_created:
        where.append(f"s.{quote(view.created)} <= e.{_TIME}")
    # Where no two rows share a time there are no ties, and the index alone gives the order.
    newest = [f"{time} DESC"] if view.plan is Plan.EXACT else _newest_first(view, "s.")
    features = ", ".join(f"s.{quote(source)}" for source, _ in view.features)
    return (
        f"LEFT JOIN LATERAL (SELECT {features} FROM {view.source} s "  # noqa: S608
        f"WHERE {' AND '.join(where)} ORDER BY {', '.join(newest)} LIMIT 1) {alias} ON TRUE"
    )


def _same_keys(view: ViewQuery, alias: str) -> list[str]:
    return [f"{alias}.{quote(source)} = e.{quote(key)}" for key, source in view.keys]


def _newest_first(view: ViewQuery, prefix: str = "") -> list[str]:
    created = [f"{prefix}{quote(view.created)} DESC NULLS LAST"] if view.created else []
    features = [prefix + quote(source) for source, _ in view.features]
    return [f"{prefix}{quote(view.timestamp)} DESC", *created, f"{_as_text(features)} DESC"]


def _as_text(columns: Iterable[str]) -> str:
    # As text because not every type has an order; byte by byte because a collation may call different texts equal.
    return f'CAST(ROW({", ".join(columns)}) AS text) COLLATE "C"'


def _interval(ttl: timedelta) -> str:
    return f"interval '{ttl // timedelta(microseconds=1)} microseconds'"


def _named(feature: tuple[str, str]) -> str:
    source, output = feature
    return f"{quote(source)} AS {quote(output)}"

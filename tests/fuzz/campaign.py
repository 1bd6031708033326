"""A seeded run of many mutated drops: what became of each, and what was wrong with that."""

import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.compute as pc
import torch

from feature_repo.database import PostgresSettings
from forecast_assets.content_hash import content_hash
from forecast_assets.frame_store import FrameStore
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import (
    FeatureTable,
    sales_features_table,
    sales_windows_table,
    store_features_table,
)
from forecast_assets.ingest.files import QUARANTINE, DropRefusedError
from forecast_assets.ingest.publish import publish
from forecast_assets.ingest.quarantine import quarantine
from forecast_assets.raw_store import RawStore
from forecast_assets.sample_data import write_sample_data
from trainer.bundle import load_model
from trainer.distributed import World
from trainer.job import run
from trainer.report import Report
from trainer.spec import TrainSpec

from . import oracle
from .data_mutations import DATA_MUTATIONS
from .draft import Draft
from .text_mutations import TEXT_MUTATIONS

MUTATIONS = {**TEXT_MUTATIONS, **DATA_MUTATIONS}
SECOND_MUTATION = 0.2
SLOW_SECONDS = 10.0
WEEKS = 80


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        verdict: refused, warned or accepted.
        faults: what may not be, in a sentence each; empty for a good outcome.
        says: the refusal, or the checks that warn.
    """

    number: int
    kinds: tuple[str, ...]
    verdict: str
    says: str
    faults: tuple[str, ...]


@dataclass
class Campaign:
    """Cases of one seed, against a small drop that was accepted before.

    Args:
        settings: an empty database, where what is accepted is published, one drop over the other; without it, nothing
            is published.
    """

    seed: int
    folder: Path
    settings: PostgresSettings | None = None
    kinds: tuple[str, ...] = tuple(MUTATIONS)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draft = small_draft(self.folder / "base")
        self.base = accepted_before(self.draft, self.folder)

    def cases(self, numbers: range) -> Iterator[Outcome]:
        """Try each case. The same seed and number give the same drop, whatever was tried before."""
        for number in numbers:
            outcome = self._case(number)
            self.outcomes.append(outcome)
            yield outcome

    def _case(self, number: int) -> Outcome:
        rng = random.Random(f"{self.seed}/{number}")
        kinds = [self.kinds[number % len(self.kinds)]]
        if rng.random() < SECOND_MUTATION:
            kinds.append(rng.choice(self.kinds))
        draft = self.draft.copy()
        try:
            for kind in kinds:
                MUTATIONS[kind](draft, rng)
        except (IndexError, ValueError):  # the first mutation left nothing for the second
            draft = self.draft.copy()
            kinds = kinds[:1]
            MUTATIONS[kinds[0]](draft, rng)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            landing = Path(name)
            draft.write(landing)
            started = time.monotonic()
            try:
                verdict, says, faults = self._judge(draft, landing)
            except Exception as error:
                trace = "".join(traceback.format_exception(error)[-3:])
                verdict, says, faults = "crashed", "", [f"{type(error).__name__}: {error}\n{trace}"]
        if (seconds := time.monotonic() - started) > SLOW_SECONDS:
            faults.append(f"it took {seconds:.0f} s")
        return Outcome(number, tuple(kinds), verdict, says, tuple(faults))

    def _judge(self, draft: Draft, landing: Path) -> tuple[str, str, list[str]]:
        sent = {path.name: path.read_bytes() for path in landing.iterdir()}
        try:
            drop = read_drop(landing)
        except DropRefusedError as refusal:
            faults = [
                *oracle.faults_of_refusal(refusal, draft, self.draft),
                *_faults_of_quarantine(refusal, landing, sent),
            ]
            return "refused", str(refusal), faults
        sales, stores, windows = sales_features_table(drop), store_features_table(drop), sales_windows_table(drop)
        frame = oracle.training_frame(sales.rows, stores.rows)
        faults = [
            *oracle.faults_of_reading(landing, drop),
            *oracle.faults_of_tables(drop, sales, stores, windows),
            *oracle.faults_of_frame(frame),
            *oracle.faults_of_forecasts(self.base, drop, sales),
        ]
        store = RawStore(self.folder / "raw")
        store.save(drop)
        if store.load().train.table != drop.train.table:
            faults.append("the stored drop is not the one that was read")
        if self.settings is not None:
            for table in (sales, stores, windows):
                faults += _faults_of_publication(table, self.settings)
        found = oracle.warnings(self.base, drop, frame)
        return "warned" if found else "accepted", ", ".join(found), faults


def _faults_of_quarantine(refusal: DropRefusedError, landing: Path, sent: dict[str, bytes]) -> Iterator[str]:
    quarantine(refusal, run_id="fuzz")
    kept = {path.name: path.read_bytes() for path in landing.glob(f"{QUARANTINE}/*/*")}
    here = {path.name: path.read_bytes() for path in landing.iterdir() if path.is_file()}
    if kept | here != sent | {name: content for name, content in kept.items() if name.endswith(".reason.txt")}:
        yield "a file that was sent is neither in the landing zone nor in quarantine"


def _faults_of_publication(table: FeatureTable, settings: PostgresSettings) -> Iterator[str]:
    """Publish over what is there, and read it back."""
    publish(table, settings, run_id="fuzz")
    columns = ", ".join(table.rows.column_names)
    with closing(adbc.connect(settings.url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table.name} ORDER BY {', '.join(table.key)}")
        there = cursor.fetch_arrow_table()
    if not _equal(there, table.rows):
        yield f"{table.name} in the database is not what was published ({there.num_rows} rows, {table.rows.num_rows})"


def _equal(one: pa.Table, other: pa.Table) -> bool:
    def hashes(table: pa.Table) -> list[str]:
        return [content_hash(table.select([name])) for name in table.column_names]

    # The driver names a list's elements otherwise.
    lists = [field_.name for field_ in other.schema if pa.types.is_list(field_.type)]
    return hashes(one.drop_columns(lists)) == hashes(other.drop_columns(lists)) and all(
        content_hash(pa.table({"all": pc.list_flatten(one[name])}))
        == content_hash(pa.table({"all": pc.list_flatten(other[name])}))
        for name in lists
    )


def small_draft(folder: Path) -> Draft:
    """Two stores, four departments and a year and a half of the sample data."""
    write_sample_data(folder, size=0.004)
    draft = Draft.read(folder)
    weeks = draft.values("train.csv", "Date")[-WEEKS:]
    departments = draft.values("train.csv", "Dept")[:4]
    draft.keep("stores.csv", lambda row: row[0] in {"1", "2"})
    draft.keep("features.csv", lambda row: row[0] in {"1", "2"} and row[1] >= weeks[0])
    draft.keep("train.csv", lambda row: row[0] in {"1", "2"} and row[1] in departments and row[2] in weeks)
    return draft


def accepted_before(draft: Draft, folder: Path) -> oracle.Base:
    """The drop of ``draft``, with a frame and a model trained for a moment."""
    landing = folder / "landing"
    landing.mkdir()
    draft.write(landing)
    drop = read_drop(landing)
    frame = oracle.training_frame(sales_features_table(drop).rows, store_features_table(drop).rows)
    frames = FrameStore(folder / "frames")
    frames.publish(frame, feature_service="fuzz", feature_service_hash="")
    current = frames.current()
    assert current is not None
    spec = TrainSpec(
        frame_path=str(current[0]), model_output_dir=str(folder / "bundle"), members=2, hidden_dims=(8,), num_epochs=1
    )
    run(spec, World(rank=0, size=1, device=torch.device("cpu")), Report())
    return oracle.Base(drop, frame, load_model(folder / "bundle"))


def table_of(outcomes: list[Outcome]) -> list[tuple[str, int, int, int, int]]:
    """Of each kind alone: cases, refused, warned about, accepted. Cases of two kinds are a row of their own."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        kind = outcome.kinds[0] if len(outcome.kinds) == 1 else "two of these at once"
        counts.setdefault(kind, Counter())[outcome.verdict] += 1
    return [
        (kind, sum(verdicts.values()), verdicts["refused"], verdicts["warned"], verdicts["accepted"])
        for kind, verdicts in sorted(counts.items())
    ]

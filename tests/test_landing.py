"""The landing zone: what is a whole drop, and when a new one starts an ingestion."""

import gzip
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forecast_assets import landing_sensor
from forecast_assets.assets.raw import ACCEPTED_CHECK
from forecast_assets.ingest import files
from forecast_assets.ingest import landing as landing_module
from forecast_assets.ingest.drop import FILES, read_drop
from forecast_assets.ingest.landing import PATIENCE, Look, look
from forecast_assets.landing_sensor import landing_zone_sensor
from forecast_assets.resources import Artifacts, LandingZone


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", content)
    return buffer.getvalue()


def looks(folder: Path, times: int = 2, *, last: Look | None = None, every: float = 10.0, at: float = 0.0) -> Look:
    """Several looks one after the other, remembered as the sensor remembers them."""
    seen = last or Look()
    for number in range(times):
        seen = look(folder, Look.from_json(seen.to_json()), at + number * every)
    return seen


def test_a_drop_is_whole_when_two_looks_find_the_same(landing: Path) -> None:
    assert "is new or has changed" in looks(landing, 1).waiting_for

    seen = looks(landing, 2)

    assert seen.waiting_for == ""
    assert seen.contents == {file.name: file.content_hash for file in read_drop(landing).files}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.touch(),
        lambda path: os.utime(path, ns=(0, 0)),
        lambda path: Path(shutil.copy(path, path.with_name("copy"))).replace(path),
        lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
        lambda path: (path.with_name("train.csv.zip").write_bytes(zipped(path.read_bytes())), path.unlink()),
        lambda path: (path.with_name("train.csv.gz").write_bytes(gzip.compress(path.read_bytes())), path.unlink()),
    ],
    ids=["touched", "dated back", "copied", "other line ends", "zipped", "gzipped"],
)
def test_the_same_content_is_the_same_drop(landing: Path, change: Callable[[Path], Any]) -> None:
    before = looks(landing)
    path = landing / "train.csv"
    change(Path(path))

    after = looks(landing, 2, last=before)

    assert after.waiting_for == ""
    assert after.identity == before.identity


def test_files_that_did_not_change_are_not_opened(landing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = looks(landing)

    def opened(*_: object) -> str:
        raise AssertionError("a file was read")

    monkeypatch.setattr(landing_module, "content_hash_of", opened)
    monkeypatch.setattr(Path, "open", opened)

    assert looks(landing, 2, last=seen).identity == seen.identity


def test_a_file_that_grows_is_left_alone_until_it_stops(landing: Path) -> None:
    content = (landing / "train.csv").read_bytes()
    seen = Look()
    for share in (4, 3, 2, 1):
        (landing / "train.csv").write_bytes(content[: len(content) // share])
        seen = looks(landing, 1, last=seen)
        assert "train.csv is new or has changed" in seen.waiting_for

    assert looks(landing, 1, last=seen).waiting_for == ""


CUT: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("train.csv", lambda content: content[:-1]),
    "zip": ("train.csv.zip", lambda content: zipped(content)[:-30]),
    "gzip": ("train.csv.gz", lambda content: gzip.compress(content)[:-1]),
    "empty": ("train.csv", lambda _: b""),
}


@pytest.mark.parametrize("form", CUT)
def test_a_file_that_does_not_end_like_a_whole_one_is_given_time_and_then_left_to_validation(
    landing: Path, form: str
) -> None:
    name, cut = CUT[form]
    content = (landing / "train.csv").read_bytes()
    (landing / "train.csv").unlink()
    (landing / name).write_bytes(cut(content))

    seen = looks(landing, 2)
    assert f"{name} does not end like a whole file" in seen.waiting_for
    assert looks(landing, 1, last=seen, at=PATIENCE - 1).waiting_for
    assert looks(landing, 1, last=seen, at=PATIENCE).waiting_for == ""


@pytest.mark.parametrize("missing", FILES)
def test_a_drop_waits_for_the_part_that_is_not_there_yet(landing: Path, missing: str) -> None:
    part = (landing / missing).read_bytes()
    (landing / missing).unlink()
    seen = looks(landing)
    assert seen.waiting_for == f"the drop is not whole: {missing} not there yet"

    (landing / missing).write_bytes(part)

    assert looks(landing, 2, last=seen).waiting_for == ""


def test_a_gzip_that_unpacks_to_far_too_much_is_not_unpacked_to_its_end(
    landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (landing / "train.csv").unlink()
    (landing / "train.csv.gz").write_bytes(gzip.compress(bytes(20 * 2**20)))
    monkeypatch.setattr(files, "ALWAYS_ALLOWED_BYTES", 2**20)
    unpacked = 0
    read = gzip.GzipFile.read

    def counting(stream: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal unpacked
        part = read(stream, size)
        unpacked += len(part)
        return part

    monkeypatch.setattr(gzip.GzipFile, "read", counting)

    assert looks(landing).waiting_for == ""
    assert unpacked < 14 * 2**20  # twice: to see whether it is whole, and to read it


def test_a_landing_zone_that_does_not_exist_is_waited_for(tmp_path: Path) -> None:
    assert "holds none of train.csv, features.csv, stores.csv" in looks(tmp_path / "nowhere").waiting_for


@dg.asset(name="train_csv", check_specs=[dg.AssetCheckSpec(ACCEPTED_CHECK, asset="train_csv")])
def failing_drop(refused: dg.ResourceParam[bool]) -> Iterator[dg.AssetCheckResult]:
    """Refuses the drop, or does not come to look at it."""
    if refused:
        yield dg.AssetCheckResult(check_name=ACCEPTED_CHECK, passed=False)
    raise dg.Failure("the drop is refused" if refused else "the database is away", allow_retries=False)


class Sensor:
    """The sensor with its cursor and Dagster's memory of run keys."""

    def __init__(self, landing: Path, artifacts: Artifacts) -> None:
        self.landing, self.artifacts = landing, artifacts
        self.cursor: str | None = None
        self.keys: set[str] = set()
        self.instance = dg.DagsterInstance.ephemeral()
        self.requested: dg.RunRequest | None = None

    def tick(self) -> str:
        """``run`` if a run is started, else why not."""
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"landing_zone": LandingZone(path=str(self.landing)), "artifacts": self.artifacts},
        ) as context:
            answer = landing_zone_sensor(context)
            self.cursor = context.cursor
        if isinstance(answer, dg.SkipReason):
            return answer.skip_message or ""
        assert isinstance(answer, dg.RunRequest)
        assert answer.run_key
        assert answer.run_key not in self.keys
        self.keys.add(answer.run_key)
        self.requested = answer
        return "run"

    def ticks(self, number: int = 4) -> list[str]:
        return [self.tick() for _ in range(number)]

    def failed(self, *, refused: bool) -> None:
        """How the run that was requested last ends."""
        assert self.requested is not None
        dg.materialize(
            [failing_drop],
            instance=self.instance,
            resources={"refused": refused},
            tags=self.requested.tags,
            raise_on_error=False,
        )

    def ingested(self) -> None:
        """What the run does: it reads the landing zone by itself."""
        self.artifacts.raw.save(read_drop(self.landing))


@pytest.fixture
def sensor(landing: Path, tmp_path: Path) -> Iterator[Sensor]:
    sensor = Sensor(landing, Artifacts(path=str(tmp_path / "artifacts")))
    with sensor.instance:
        yield sensor


def set_size(sensor: Sensor, size: int) -> None:
    (sensor.landing / "stores.csv").write_text(f"Store,Type,Size\n1,A,{size}\n2,B,2\n3,C,3\n")


def test_a_drop_starts_one_run_at_the_second_tick_and_none_while_that_runs_or_after(sensor: Sensor) -> None:
    assert sensor.tick() != "run"
    assert sensor.tick() == "run"
    assert set(sensor.ticks()) == {
        "this drop was handed to a run, and is not in use: see that run, and the checks of train_csv, features_csv and "
        "stores_csv"
    }
    sensor.ingested()
    assert set(sensor.ticks()) == {"nothing new: the drop that lies there is the one in use"}


def test_a_drop_in_use_already_starts_nothing_even_without_a_cursor(sensor: Sensor) -> None:
    sensor.ingested()
    assert "run" not in sensor.ticks()


def test_a_drop_whose_run_failed_for_another_reason_is_tried_again_later_and_later(
    sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sensor.ticks().count("run") == 1
    sensor.failed(refused=False)
    assert "failed, not by what is in the drop: it is tried again at" in sensor.tick()

    monkeypatch.setattr(landing_sensor, "AGAIN_SECONDS", 0)
    for _ in range(2):
        assert sensor.tick() == "run"
        sensor.failed(refused=False)
    assert len(sensor.keys) == 3
    sensor.ingested()
    assert "run" not in sensor.ticks()


def test_a_drop_that_was_refused_is_not_tried_again(sensor: Sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_sensor, "AGAIN_SECONDS", 0)
    assert sensor.ticks().count("run") == 1
    sensor.failed(refused=True)

    assert "run" not in sensor.ticks()


def test_a_broken_drop_is_tried_once_and_its_correction_too(sensor: Sensor) -> None:
    train = sensor.landing / "train.csv"
    good = train.read_bytes()
    train.write_bytes(good.replace(b"2010-02-12", b"2010-02-31", 1))
    assert sensor.ticks().count("run") == 1
    train.touch()
    assert sensor.ticks().count("run") == 0

    train.write_bytes(good)

    assert sensor.ticks().count("run") == 1


def test_several_drops_during_a_run_are_taken_up_after_it_by_their_last_state(sensor: Sensor) -> None:
    assert sensor.ticks().count("run") == 1
    set_size(sensor, 10)
    set_size(sensor, 11)
    assert sensor.ticks().count("run") == 1
    sensor.ingested()
    assert sensor.ticks().count("run") == 0
    assert sensor.artifacts.raw.load().stores.table["Size"].to_pylist() == [11, 2, 3]


def test_a_content_that_comes_back_after_another_is_ingested_again(sensor: Sensor) -> None:
    for size in (10, 11, 10, 11):
        set_size(sensor, size)
        assert sensor.ticks().count("run") == 1
        sensor.ingested()

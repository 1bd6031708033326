import datetime
from pathlib import Path

import pyarrow.compute as pc
import pytest
from trainer_frames import made_up_table, publish_frame

from trainer.errors import FrameError
from trainer.frame import read_frame, split_masks
from trainer.spec import TrainSpec
from trainer.windows import validation_rows


def spec(**fields: int | str) -> TrainSpec:
    return TrainSpec(frame_path="frame", model_output_dir="bundle", **fields)  # type: ignore[arg-type]


def test_frame_is_read_back_as_published(tmp_path: Path) -> None:
    table = made_up_table(weeks=20)
    assert read_frame(publish_frame(table, tmp_path / "frame", chunk_rows=100)).table.equals(table)


def test_frame_without_its_completion_marker_is_refused(tmp_path: Path) -> None:
    frame = publish_frame(made_up_table(weeks=20), tmp_path / "frame")
    (frame / "_SUCCESS").unlink()
    with pytest.raises(FrameError, match=f"frame {frame} is not complete"):
        read_frame(frame)


def test_corrupt_chunk_is_refused_with_both_hashes(tmp_path: Path) -> None:
    frame = publish_frame(made_up_table(weeks=20), tmp_path / "frame")
    with (frame / "chunk-00000.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FrameError, match=r"chunk-00000\.parquet is corrupt: sha256 is [0-9a-f]{64}, .* [0-9a-f]{64}"):
        read_frame(frame)


def test_missing_chunk_is_refused_by_name(tmp_path: Path) -> None:
    frame = publish_frame(made_up_table(weeks=20), tmp_path / "frame")
    (frame / "chunk-00000.parquet").unlink()
    with pytest.raises(FrameError, match=r"chunk-00000\.parquet is missing"):
        read_frame(frame)


def test_last_weeks_are_validated_and_the_gap_before_them_is_not_used() -> None:
    table = made_up_table(weeks=40)
    training, validation = split_masks(table, spec(val_size=6, gap_weeks=3))
    dates = pc.unique(table["event_timestamp"]).sort().to_pylist()
    assert pc.max(table["event_timestamp"].filter(pc.equal(1, training.astype(int)))).as_py() == dates[-6 - 3 - 1]
    assert not (training & validation).any()
    first_validated = datetime.datetime(2010, 2, 5, tzinfo=datetime.UTC) + datetime.timedelta(weeks=34)
    rows = validation_rows(table, spec(val_size=6, gap_weeks=3))
    assert pc.min_max(rows["event_timestamp"]).as_py() == {"min": first_validated, "max": dates[-1]}


@pytest.mark.parametrize("weeks", [0, 29])
def test_frame_too_short_for_the_split_is_refused_with_what_it_needs(weeks: int) -> None:
    with pytest.raises(FrameError, match=rf"spans {weeks} weeks; .* need 30"):
        split_masks(made_up_table(weeks=weeks or 60).slice(0, None if weeks else 0), spec())


def test_cutoff_date_ends_training_and_all_weeks_after_the_gap_are_validated() -> None:
    table = made_up_table(weeks=40)
    dates = pc.unique(table["event_timestamp"]).sort().to_pylist()
    for cutoff in (dates[29], dates[29] + datetime.timedelta(days=6)):
        training, validation = split_masks(table, spec(cutoff_date=f"{cutoff:%Y-%m-%d}", gap_weeks=3))
        assert pc.max(table["event_timestamp"].filter(pc.equal(1, training.astype(int)))).as_py() == dates[29]
        assert pc.min(table["event_timestamp"].filter(pc.equal(1, validation.astype(int)))).as_py() == dates[33]
    with pytest.raises(FrameError, match="cutoff_date 2010-02-05 has to leave 8 weeks before it"):
        split_masks(table, spec(cutoff_date="2010-02-05"))

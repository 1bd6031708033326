"""A landing zone in which files are missing, unreadable or there twice, or which is not there itself."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from forecast_assets.ingest.drop import FILES, read_drop
from forecast_assets.ingest.files import DropRefusedError
from forecast_assets.ingest.landing import Look, look


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named_with_those_that_are_there(landing: Path, file: str) -> None:
    (landing / file).unlink()
    with pytest.raises(DropRefusedError) as refusal:
        read_drop(landing)
    assert str(refusal.value).startswith(f"{file} is missing in the landing zone {landing}")
    assert all(other in str(refusal.value).partition("found there")[2] for other in FILES if other != file)


def test_what_may_not_be_read_is_named_and_stays_where_it_is(landing: Path) -> None:
    with TemporaryDirectory() as folder:  # pytest's own folders may be out of the other user's reach
        Path(folder).chmod(0o755)
        zone = Path(shutil.copytree(landing, f"{folder}/zone"))
        zone.chmod(0o755)
        for path in (zone / "train.csv", zone):
            path.chmod(0)
            with without_roots_rights(), pytest.raises(DropRefusedError) as refusal:
                read_drop(zone)
            with without_roots_rights():
                seen = look(zone, look(zone, Look(), 0), 10)
            path.chmod(0o755)
            assert str(refusal.value).startswith(f"{path} may not be read by the user who runs this")
            assert refusal.value.sent is None
            assert f"{path}" in seen.waiting_for


@contextmanager
def without_roots_rights() -> Iterator[None]:
    """As a user whom a file's rights bind; who is not root is one already."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_and_its_zipped_copy_together_are_refused(landing: Path) -> None:
    with zipfile.ZipFile(landing / "train.csv.zip", "w") as archive:
        archive.write(landing / "train.csv", "train.csv")
    with pytest.raises(DropRefusedError, match=r"train\.csv and train\.csv\.zip are both in the landing zone .*: keep"):
        read_drop(landing)


def test_a_landing_zone_that_does_not_exist_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(DropRefusedError, match=r"landing zone .*/nowhere is not a folder: .*LANDING_DIR"):
        read_drop(tmp_path / "nowhere")

"""A short form of ``python -m tests.torture``: an ingestion is killed at some moment, and made again."""

from collections.abc import Iterator

import pytest
from torture.campaign import Campaign
from torture.place import Place


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    place = Place(tmp_path_factory.mktemp("torture").resolve())
    place.root.chmod(0o755)
    place.make()
    campaign = Campaign(11, place, stages=("ingest",))
    campaign.prepare()
    yield campaign
    place.remove()


def test_a_run_after_a_killed_one_ends_where_undisturbed_ones_do(campaign: Campaign) -> None:
    (outcome,) = campaign.cases(range(1), only="run: kill -9")

    assert outcome.injected
    assert outcome.violations == ()

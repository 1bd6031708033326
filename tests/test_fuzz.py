"""A short form of ``python -m tests.fuzz``: one drop of every second kind of mutation, from another seed than that."""

import pytest
from fuzz.campaign import MUTATIONS, Campaign
from fuzz.oracle import faults_of_refusal

from feature_repo.database import PostgresSettings
from forecast_assets.ingest.files import DropRefusedError


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, module_database: PostgresSettings) -> Campaign:
    return Campaign(7, tmp_path_factory.mktemp("fuzz"), module_database, kinds=tuple(MUTATIONS)[::2])


def test_a_mutated_drop_is_refused_by_name_or_accepted_with_everything_in_place(campaign: Campaign) -> None:
    outcomes = list(campaign.cases(range(len(campaign.kinds))))

    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert {outcome.verdict for outcome in outcomes} == {"refused", "warned", "accepted"}


def test_a_refusal_that_blames_a_file_or_a_line_that_was_not_changed_is_a_fault(campaign: Campaign) -> None:
    draft = campaign.draft.copy()
    draft.set("features.csv", 9, "CPI", "x")

    def faults(message: str) -> int:
        return len(list(faults_of_refusal(DropRefusedError(message), draft, campaign.draft)))

    assert faults("features.csv line 10: CPI 'x' is not a number") == 0
    assert faults("features.csv line 11: CPI 'x' is not a number") == 1
    assert faults("stores.csv line 10: Size 'x' is not a number") == 1
    assert faults("train.csv line 7: Store 1 is not in stores.csv") == 1

"""A short form of ``python -m tests.fuzz``: one drop of every second kind of mutation, from another seed than that."""

import pytest
from fuzz.campaign import MUTATIONS, Campaign

from feature_repo.database import PostgresSettings


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, module_database: PostgresSettings) -> Campaign:
    return Campaign(7, tmp_path_factory.mktemp("fuzz"), module_database, kinds=tuple(MUTATIONS)[::2])


def test_a_mutated_drop_is_refused_by_name_or_accepted_with_everything_in_place(campaign: Campaign) -> None:
    outcomes = list(campaign.cases(range(len(campaign.kinds))))

    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert {outcome.verdict for outcome in outcomes} == {"refused", "warned", "accepted"}

"""The service goes on answering while models, definitions and the database change, and while it is stopped."""

import copy
import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import Field
from feast.types import Float64, Int64
from serving_example import Installation, Service, ask, installed, load, serving

from feature_repo.definitions import sales_history_features
from feature_repo.materialize import materialize
from feature_repo.store import apply_definitions, open_store
from trainer.bundle import bundle_hash, read_sidecar, write_sidecar


@pytest.fixture(scope="module")
def installation(small_drop: Path) -> Iterator[Installation]:
    with installed(small_drop, first={}, second={"seed": 1}) as installation:
        yield installation


@pytest.fixture(scope="module")
def service(installation: Installation) -> Iterator[Service]:
    with serving(installation) as service:
        yield service


def test_a_new_champion_takes_over_under_load_and_no_request_is_lost(
    service: Service, installation: Installation
) -> None:
    models = installation.models
    versions = {name: bundle_hash(models.bundle(name)) for name in ("first", "second")}
    with load(service, installation.keys) as answers:
        for name in ("second", "first", "second", "first"):
            models.promote(models.bundle(name))
            service.until(lambda name=name: service.version() == versions[name])
            seen = len(answers)
            service.until(lambda seen=seen: len(answers) > seen + 8)

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model_version"] for answer in answers} == set(versions.values())


def _truncate(bundle: Path) -> None:
    model = bundle / "best_model.pt"
    model.write_bytes(model.read_bytes()[:-1_000])


def _reorder(bundle: Path) -> None:
    sidecar = read_sidecar(bundle)
    first, second, *rest = sidecar["encoder"]["numeric_features"]
    sidecar["encoder"]["numeric_features"] = [second, first, *rest]
    write_sidecar(bundle, sidecar)


def _flip(bundle: Path) -> None:
    """Flip a bit of a number that the model scales its inputs by; it stays a number."""
    sidecar = bundle / "bundle.json"
    content = bytearray(sidecar.read_bytes())
    digit = re.search(rb'"mean": -?[0-9]+\.([0-9])', content)
    assert digit
    content[digit.start(1)] ^= 1
    assert json.loads(content).keys() == {*read_sidecar(bundle), "sha256"}
    sidecar.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_truncate, "corrupt"),
        (_reorder, "another order"),
        (_flip, "its own sha256"),
        (lambda bundle: (bundle / "bundle.json").write_text("{"), "JSONDecodeError"),
        (lambda bundle: (bundle / "bundle.json").unlink(), "no bundle.json"),
        (shutil.rmtree, "missing"),
    ],
    ids=["truncated", "other feature order", "flipped bit", "broken sidecar", "no sidecar", "no bundle"],
)
def test_a_broken_bundle_is_refused_and_the_old_model_goes_on(
    service: Service, installation: Installation, spoil: Callable[[Path], Any], why: str
) -> None:
    models = installation.models
    before, refused = service.version(), service.metric("serving_models_refused_total")
    broken = models.bundle(f"broken-{why.replace(' ', '-')}")
    shutil.copytree(models.bundle("second"), broken)
    spoil(broken)

    models.promote(broken)
    service.until(lambda: service.metric("serving_models_refused_total") == refused + 1)

    assert service.version() == before
    assert service.client.get("/v2/health/ready").status_code == 200
    assert ask(service, installation.keys[0]).status_code == 200
    models.promote(models.bundle("first"))


def test_while_the_database_is_away_requests_are_told_to_come_again_and_then_are_answered(
    service: Service, installation: Installation
) -> None:
    right = ask(service, installation.keys[0]).json()
    with load(service, installation.keys[:1]) as answers:
        installation.stop_database()
        try:
            service.until(lambda: answers and answers[-1].status_code == 503)
            assert service.client.get("/v2/health/live").status_code == 200
            time.sleep(1)
        finally:
            installation.start_database()
        service.until(lambda: answers[-1].status_code == 200)

    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert "the online store does not answer" in refused[0].json()["detail"]
    assert all(answer.json() == right for answer in answers if answer.status_code == 200)
    assert service.metric("serving_errors_total") > 0


def test_a_series_that_is_not_live_any_more_is_no_such_series(service: Service, installation: Installation) -> None:
    ended, other = installation.keys[:2]
    move = "UPDATE sales_features SET event_timestamp = event_timestamp + %s WHERE (store, dept, date) = (%s, %s, %s)"
    week = installation.week.date()
    with open_store(installation.settings) as store, psycopg.connect(installation.settings.url) as connection:
        try:
            connection.execute(move, [timedelta(days=-3500), ended["store"], ended["dept"], week])
            connection.commit()
            materialize(store, installation.week)
            answer, both = ask(service, ended), ask(service, [ended, other]).json()
        finally:
            connection.execute(move, [timedelta(days=3500), ended["store"], ended["dept"], week])
            connection.commit()
            materialize(store, installation.week)

    assert answer.status_code == 404
    assert answer.json() == {"detail": f"no such series: store {ended['store']}, dept {ended['dept']}"}
    assert [row["status"] for row in both] == ["unknown series", "ok"]
    assert ask(service, ended).status_code == 200


def test_definitions_applied_anew_are_taken_up_without_a_restart(service: Service, installation: Installation) -> None:
    right = ask(service, installation.keys).json()
    one_more, retyped = (copy.copy(sales_history_features) for _ in range(2))
    one_more.features = [*sales_history_features.features, Field(name="one_more", dtype=Float64)]
    retyped.features = [
        Field(name=field.name, dtype=Int64 if field.name == "month" else field.dtype)
        for field in sales_history_features.features
    ]
    with open_store(installation.settings) as store:
        with load(service, installation.keys) as answers:
            store.apply([one_more])
            seen = len(answers)
            service.until(lambda: len(answers) > seen + 20)
        assert {answer.status_code for answer in answers} == {200}
        assert ask(service, installation.keys).json() == right

        with load(service, installation.keys) as answers:
            store.apply([retyped])
            apply_definitions(store)
            materialize(store, installation.week)
            seen = len(answers)
            service.until(lambda: len(answers) > seen + 20)
        # Until the feature is there again, nothing is forecast without it.
        assert {answer.status_code for answer in answers} == {200, 503}
        assert {answer.status_code for answer in answers[seen + 8 :]} == {200}
        by_key = {(row["store"], row["dept"]): row for row in right}
        told = [answer.json() for answer in answers if answer.status_code == 200]
        assert all(row == by_key[row["store"], row["dept"]] for row in told)
    assert ask(service, installation.keys).json() == right


def test_a_view_that_lacks_what_its_service_asks_for_is_told_as_unavailable(
    service: Service, installation: Installation
) -> None:
    """So it is for a moment while definitions are applied, one after the other."""
    lacking = copy.copy(sales_history_features)
    lacking.features = [field for field in sales_history_features.features if field.name != "month"]
    with open_store(installation.settings) as store:
        store.apply([lacking])
        refused = ask(service, installation.keys)
        apply_definitions(store)
        materialize(store, installation.week)

    assert (refused.status_code, refused.json()["detail"]) == (
        503,
        "the feature definitions are changing: try again in a moment",
    )
    service.until(lambda: ask(service, installation.keys).status_code == 200)


def test_two_workers_answer_and_a_signal_lets_them_finish_what_they_have(installation: Installation) -> None:
    with serving(installation, workers=2) as service:
        with load(service, installation.keys, clients=6) as answers:
            service.until(lambda: len(answers) > 100)
        assert {answer.status_code for answer in answers} == {200}
        assert service.metric("serving_rows_total") == len(answers)

        many = installation.keys * (10_000 // len(installation.keys))
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(ask, service, many)
            service.until(lambda: service.metric("serving_requests_in_work") > 0)
            service.process.send_signal(signal.SIGTERM)
            assert len(last.result().json()) == len(many)
        assert service.process.wait(timeout=60) == 0

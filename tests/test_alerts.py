"""Who is to be told is told, through a real HTTP server: what failed, since when, what works, and what to do."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest

from forecast_assets import webhook
from forecast_assets.alerts import tell_failed_checks, tell_failed_runs
from forecast_assets.assets.raw import ACCEPTED_CHECK
from forecast_assets.landing_sensor import DROP_TAG
from forecast_assets.resources import Artifacts
from forecast_assets.webhook import DeliveryError, post

SECRET = "T0KEN-of-the-hook"  # noqa: S105 - made up


@dataclass
class Hook:
    """A webhook that answers with ``answers`` in turn, then with 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[dict[str, str]] = field(default_factory=list)
    attempts: int = 0


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.attempts += 1
            answer = hook.answers.pop(0) if hook.answers else 200
            if answer == 200:
                assert self.headers["Content-Type"] == "application/json"
                hook.received.append(body)
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        hook.url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
        monkeypatch.setattr(webhook, "FIRST_PAUSE_SECONDS", 0.01)
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        monkeypatch.setenv("DAGSTER_UI_URL", "https://ui.example/")
        yield hook
        server.shutdown()
        thread.join()


@dg.asset
def table() -> None:
    """Fails as long as the test wants it to."""
    raise dg.Failure("line 7 <of> train.csv & co is wrong", allow_retries=False)


@dg.asset(name="table")
def good_table() -> None:
    """The same asset, mended."""


@dg.asset(deps=["table"])
def report() -> None:
    """Is never reached."""


@dg.asset(check_specs=[dg.AssetCheckSpec("plausible", asset="figures"), dg.AssetCheckSpec("complete", asset="figures")])
def figures(passes: dg.ResourceParam[bool]) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Has a check that fails, and one that passes."""
    yield dg.MaterializeResult()
    yield dg.AssetCheckResult(check_name="plausible", passed=passes, severity=dg.AssetCheckSeverity.WARN)
    yield dg.AssetCheckResult(check_name="complete", passed=True)


@dg.multi_asset(specs=[dg.AssetSpec("train_csv")], check_specs=[dg.AssetCheckSpec(ACCEPTED_CHECK, asset="train_csv")])
def raw_drop(refused: dg.ResourceParam[bool]) -> Iterator[dg.AssetCheckResult]:
    """Refuses the drop, or does not come to look at it."""
    if refused:
        yield dg.AssetCheckResult(asset_key="train_csv", check_name=ACCEPTED_CHECK, passed=False)
    raise dg.Failure("so it is", allow_retries=False)


def fail(
    instance: dg.DagsterInstance,
    artifacts: Artifacts,
    *assets: dg.AssetsDefinition,
    resources: dict[str, object] | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    """A failed run, and the sensor that sees it. Returns the run's id."""
    result = dg.materialize(
        assets or [table, report], instance=instance, resources=resources, tags=tags, raise_on_error=False
    )
    context = dg.build_run_status_sensor_context(
        sensor_name="tell_failed_runs",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_failure_event(),
        resources={"artifacts": artifacts},
    )
    tell_failed_runs(context.for_run_failure())
    return result.run_id


def check(instance: dg.DagsterInstance, artifacts: Artifacts, *, passes: bool) -> None:
    """A run that succeeds, and the sensor that looks at its checks."""
    result = dg.materialize([figures], instance=instance, resources={"passes": passes})
    context = dg.build_run_status_sensor_context(
        sensor_name="tell_failed_checks",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_success_event(),
        resources={"artifacts": artifacts},
    )
    tell_failed_checks(context)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """A champion that serves, and its forecasts."""
    artifacts = Artifacts(path=str(tmp_path / "artifacts"))
    artifacts.models.promote(artifacts.models.bundle("abc-123"))
    artifacts.forecasts.mkdir(parents=True)
    (artifacts.forecasts / "2012-11-02.parquet").touch()
    return artifacts


def test_a_failed_run_is_told_with_reason_consequence_and_next_step(
    hook: Hook, instance: dg.DagsterInstance, artifacts: Artifacts
) -> None:
    run_id = fail(instance, artifacts)

    (message,) = hook.received
    text = message["text"]
    assert f":red_circle: *table* failed in <https://ui.example/runs/{run_id}|run {run_id[:8]}>" in text
    assert "line 7 &lt;of&gt; train.csv &amp; co is wrong" in text
    assert "Not made: table, report" in text
    assert "it was never made before" in text
    assert "the champion abc-123 goes on serving, and the forecasts for the week of 2012-11-02 stay" in text
    assert "dagster asset materialize -m forecast_assets.definitions --select 'key:table or key:report'" in text


def test_a_failure_that_goes_on_is_told_with_its_beginning_and_the_last_success(
    hook: Hook, instance: dg.DagsterInstance, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecast_assets.alerts._moment", lambda timestamp: f"[{timestamp:.3f}]")
    good = dg.materialize([good_table], instance=instance)
    first = fail(instance, artifacts)
    fail(instance, artifacts)

    record = instance.get_run_record_by_id(first)
    made = instance.get_latest_materialization_event(dg.AssetKey("table"))
    assert good.success
    assert record is not None
    assert made is not None
    since = f"*Since:* [{record.create_timestamp.timestamp():.3f}]; table was last made [{made.timestamp:.3f}]"
    assert [since in message["text"] for message in hook.received] == [True, True]


@pytest.mark.parametrize("by_sensor", [True, False])
@pytest.mark.parametrize("refused", [True, False])
def test_a_corrected_file_is_asked_for_only_if_refused_and_another_try_promised_only_if_the_sensor_makes_it(
    hook: Hook, instance: dg.DagsterInstance, artifacts: Artifacts, refused: bool, by_sensor: bool
) -> None:
    tags = {DROP_TAG: "0123456789ab"} if by_sensor else {}
    fail(instance, artifacts, raw_drop, resources={"refused": refused}, tags=tags)

    (message,) = hook.received
    assert ("send the corrected file" in message["text"]) == refused
    assert ("is tried again after a while" in message["text"]) == (by_sensor and not refused)


def test_a_failed_check_of_a_run_that_succeeds_is_told_and_one_that_passes_is_not(
    hook: Hook, instance: dg.DagsterInstance, artifacts: Artifacts
) -> None:
    check(instance, artifacts, passes=True)
    assert hook.received == []

    check(instance, artifacts, passes=False)

    (message,) = hook.received
    assert ":warning: *1 failed* in" in message["text"]
    assert "figures: plausible (warn)" in message["text"]
    assert "complete" not in message["text"]
    assert "look at the Checks tab of figures" in message["text"]


def test_a_hook_that_is_away_for_a_moment_gets_the_message_once(hook: Hook) -> None:
    hook.answers = [503, 429]
    post(hook.url, {"text": "hello"})
    assert (hook.attempts, hook.received) == (3, [{"text": "hello"}])


@pytest.mark.parametrize(("answer", "attempts"), [(500, 3), (404, 1)])
def test_a_hook_that_refuses_is_not_asked_for_ever(hook: Hook, answer: int, attempts: int) -> None:
    hook.answers = [answer] * 5
    with pytest.raises(DeliveryError, match=f"the webhook at 127.0.0.1 answers {answer}") as error:
        post(hook.url, {"text": "hello"})
    assert hook.attempts == attempts
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1/{SECRET}", f"file:///etc/{SECRET}", SECRET])
def test_an_address_that_cannot_be_posted_to_is_not_repeated_in_the_message(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "FIRST_PAUSE_SECONDS", 0.01)
    with pytest.raises(DeliveryError) as error:
        post(url, {"text": "hello"})
    assert SECRET not in str(error.value)


def test_what_could_not_be_told_is_in_the_log_without_the_address(
    hook: Hook, instance: dg.DagsterInstance, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [500] * 3
    with caplog.at_level(logging.ERROR):
        fail(instance, artifacts)
    assert hook.received == []
    assert SECRET not in caplog.text


def test_without_an_address_nothing_is_posted_and_nothing_fails(
    hook: Hook, instance: dg.DagsterInstance, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALERT_WEBHOOK_URL")
    fail(instance, artifacts)
    assert hook.attempts == 0

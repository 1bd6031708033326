"""One call of the client: up to so many jobs, one after the other.

Their names follow from the call's identity and the attempt's number, and what became of each is stored with it. So a
call that is made again, because the process that made it was killed, goes through the same attempts: it passes those
that have failed, adopts the one that is there, running or ended, and starts the next only if there is none.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext, PipesContextInjector, PipesSession, open_pipes_session

from forecast_assets.trainjob import errors
from forecast_assets.trainjob.attempts import SUCCESS, FailedAttempt, Verdict, attempts_table, report_attempt
from forecast_assets.trainjob.diagnosis import diagnose
from forecast_assets.trainjob.following import Follower, Patience, patiently
from forecast_assets.trainjob.messages import JobMessages, error_reports
from forecast_assets.trainjob.names import job_labels, job_name
from forecast_assets.trainjob.observation import LOG_MESSAGES, MESSAGES_ANNOTATION, JobObservation, JobPlatform
from forecast_assets.trainjob.recovery import RecoveryPolicy, Remedy
from forecast_assets.trainjob.request import TrainJobRequest

_SAME_AGAIN = Remedy("the same again")
_BEING_CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


class CompletedTrainJob:
    """What a job reported that ended well.

    Attributes:
        name: of the job.
        record: folder with its spec and messages; None if messages came through the log.
        messages: its custom messages in order.
    """

    def __init__(
        self, name: str, record: Path | None, messages: Sequence[Any], results: Sequence[dg.MaterializeResult[Any]]
    ) -> None:
        self.name = name
        self.record = record
        self.messages = messages
        self._results = results

    def get_results(self, metadata: Mapping[str, Any] | None = None) -> Sequence[dg.MaterializeResult[Any]]:
        """The reported materializations, ``metadata`` added; nothing is invented that the job did not report."""
        return [result._replace(metadata={**(result.metadata or {}), **(metadata or {})}) for result in self._results]


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """The client's and the call's settings; `PipesTrainJobClient` says what they mean."""

    platform: JobPlatform
    records: Path | None
    context_injector: PipesContextInjector
    patience: Patience
    echo: Callable[[str], None]
    context: AssetExecutionContext
    identity: str
    recovery: RecoveryPolicy
    max_attempts: int
    on_message: Callable[[Any], None]
    verify: Callable[[dg.MaterializeResult[Any]], None]
    read_result: Callable[[], dg.MaterializeResult[Any]] | None

    def run(self, asked: TrainJobRequest) -> CompletedTrainJob:
        """Go through the attempts until one succeeds, or fails for good."""
        request, failed = asked, list[FailedAttempt]()
        number = 0
        while True:
            number += 1
            name = job_name(self.context, self.identity, number)
            verdict, error = Verdict.of(self._observe(name)), None
            if verdict is None:
                try:
                    done = self._attempt(name, number, request, failed)
                except errors.AlreadySubmittedError:
                    # Another process was faster by a moment: adopt its job.
                    number -= 1
                    continue
                except (errors.JobFailedError, errors.UntrustedResultError) as raised:
                    error = raised
                    last = raised.kind not in self.recovery or len(failed) + 1 >= self.max_attempts
                    verdict = Verdict(kind=raised.kind, summary=raised.summary, final=last)
                    self._conclude(name, verdict)
                else:
                    self._conclude(name, Verdict(kind=SUCCESS, final=True))
                    return done
            if not verdict.final:
                remedy = self.recovery.get(verdict.kind, _SAME_AGAIN)
                request = request.adjusted(remedy)
                failed.append(
                    FailedAttempt(job=name, kind=verdict.kind, summary=verdict.summary, remedy=remedy.description)
                )
            elif error is not None:
                raise error
            else:
                # An earlier call came to its end with this job; this one starts afresh after it.
                request, failed = asked, []

    def _observe(self, name: str) -> JobObservation:
        return patiently(lambda: self.platform.observe(name), self.platform, self.patience, self.context.log)

    def _conclude(self, name: str, verdict: Verdict) -> None:
        try:
            self.platform.conclude(name, verdict.to_json())
        except errors.TrainJobError as error:
            self.context.log.warning(f"the outcome of TrainJob {name} was not stored with it: {error}")

    def _follower(self, name: str, messages: JobMessages) -> Follower:
        return Follower(
            self.platform,
            name,
            messages,
            patience=self.patience,
            log=self.context.log,
            echo=self.echo,
            on_message=self.on_message,
        )

    def _attempt(
        self, name: str, number: int, request: TrainJobRequest, failed: Sequence[FailedAttempt]
    ) -> CompletedTrainJob:
        """Start or adopt the job ``name`` and follow it to its end."""
        there = self._observe(name)
        adopts = there.phase != "gone"
        messages_file = self._messages_of(there) if adopts else self._new_record(name, request.spec)
        messages = JobMessages(messages_file)
        with open_pipes_session(
            context=self.context,
            context_injector=self.context_injector,
            message_reader=messages,
            extras={"spec": dict(request.spec)},
        ) as session:
            follower = self._follower(name, messages)
            with self._not_left_alone(name):
                if adopts:
                    self.context.log.info(
                        f"TrainJob {name} is there already ({there.phase}): adopted, not started again"
                    )
                else:
                    self._submit(name, number, request, messages_file, session)
                report_attempt(self.context, number, name, self.platform.find(name), failed)
                job = follower.follow()
            messages.finish()
        if job.phase != "complete":
            raise self._failure(name, job, messages, follower)
        results = self._trusted_results(name, job, messages, session, follower)
        record = messages_file.parent if messages_file else None
        shown: dict[str, Any] = {f"trainjob/{what}": how for what, how in self.platform.find(name).items()}
        shown |= {"trainjob": name, "trainjob/attempts": attempts_table(name, failed)}
        return CompletedTrainJob(
            name, record, messages.custom, [r._replace(metadata={**(r.metadata or {}), **shown}) for r in results]
        )

    def _new_record(self, name: str, spec: Mapping[str, Any]) -> Path | None:
        """A folder for spec and messages that no job has had before, not even a deleted one of the same name."""
        document = json.dumps(spec, indent=2)
        if self.records is None:
            return None
        folder = self.records / f"{name}.{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(document)
        (folder / "messages.jsonl").touch()
        return folder / "messages.jsonl"

    @staticmethod
    def _messages_of(job: JobObservation) -> Path | None:
        where = job.annotations.get(MESSAGES_ANNOTATION, LOG_MESSAGES)
        return None if where == LOG_MESSAGES else Path(where)

    def _submit(
        self, name: str, number: int, request: TrainJobRequest, messages_file: Path | None, session: PipesSession
    ) -> None:
        try:
            submission = request.submission(
                name,
                spec_path=str(messages_file.with_name("spec.json")) if messages_file else None,
                env=session.get_bootstrap_env_vars(),
                labels=job_labels(self.context, number),
                annotations={MESSAGES_ANNOTATION: str(messages_file) if messages_file else LOG_MESSAGES},
            )
        except ValueError as error:
            details = errors.JobDetails(name=name, namespace=self.platform.namespace)
            raise errors.NotSubmittedError(f"not started: {error}", details) from error
        # If the answer to one try was lost, the next finds the job there, and it is adopted.
        patiently(lambda: self.platform.submit(submission), self.platform, self.patience, self.context.log)

    @contextmanager
    def _not_left_alone(self, name: str) -> Iterator[None]:
        """However the block ends, the job runs on only if somebody is to follow it."""
        try:
            yield
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            if self._is_being_cancelled():
                self.context.log.info(f"the run is being cancelled: TrainJob {name} is deleted")
                self._delete(name)
            else:
                where = "; ".join(f"{what}: {how}" for what, how in self.platform.find(name).items())
                self.context.log.info(
                    f"interrupted, but the run is not being cancelled: TrainJob {name} is left alone, and the next "
                    f"attempt adopts it ({where})"
                )
            raise
        except Exception as error:
            # Not started in time, or Dagster or the caller cannot go on: nobody will follow the job. Other errors of a
            # job's mean that there is none, or that it cannot be seen just now and the next attempt adopts it.
            if isinstance(error, errors.NotStartedError) or not isinstance(error, errors.TrainJobError):
                self._delete(name)
            raise

    def _delete(self, name: str) -> None:
        try:
            self.platform.delete(name)
        except (errors.TrainJobError, TimeoutError) as error:
            self.context.log.error(f"TrainJob {name} could not be deleted, do it by hand: {error}")

    def _is_being_cancelled(self) -> bool:
        run = self.context.instance.get_run_by_id(self.context.run.run_id)
        return run is not None and run.status in _BEING_CANCELLED

    def _failure(
        self, name: str, job: JobObservation, messages: JobMessages, follower: Follower
    ) -> errors.TrainJobError:
        logs = {node: list(lines) for node, lines in follower.logs.items()}
        diagnosis = diagnose(job, error_reports(messages.custom), messages.exception, logs)
        details = self._details(name, job, diagnosis.log_tail, diagnosis.exit_code)
        return diagnosis.error(diagnosis.summary, details)

    def _trusted_results(
        self, name: str, job: JobObservation, messages: JobMessages, session: PipesSession, follower: Follower
    ) -> Sequence[dg.MaterializeResult[Any]]:
        """What the job reported, if it can be believed."""
        details = self._details(name, job, list(follower.logs.get(0, ()))[-10:])
        if messages.garbled:
            shown = "; ".join(messages.garbled[:3])
            raise errors.GarbledMessagesError(f"{len(messages.garbled)} messages cannot be read: {shown}", details)
        reported = session.get_results(implicit_materializations=False)
        results = [result for result in reported if isinstance(result, dg.MaterializeResult)]
        try:
            if not results and self.read_result is not None:
                results = [self.read_result()]
            for result in results:
                if result.asset_key not in (None, *self.context.selected_asset_keys):
                    raise ValueError(f"the result is for the asset {result.asset_key}, which this job does not make")
                self.verify(result)
        except ValueError as error:
            raise errors.ResultMismatchError(f"the result is not used: {error}", details) from error
        if not results:
            raise errors.NoResultError("ended with status 0 but reported no result, so it counts as failed", details)
        return results

    def _details(
        self, name: str, job: JobObservation, log_tail: Sequence[str], exit_code: int | None = None
    ) -> errors.JobDetails:
        return errors.JobDetails(
            name=name,
            namespace=self.platform.namespace,
            phase=job.phase,
            reason=job.reason,
            events=job.events,
            log_tail=log_tail,
            exit_code=exit_code,
            find="; ".join(f"{what}: {how}" for what, how in self.platform.find(name).items()),
        )

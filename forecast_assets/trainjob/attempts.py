"""What became of each attempt, as it is stored with the job and shown to people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import dagster as dg

from forecast_assets.trainjob.observation import VERDICT_ANNOTATION, JobObservation

SUCCESS = "success"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the client made of an ended job.

    Attributes:
        kind: SUCCESS or the kind of the error.
        summary: what happened, in one sentence.
        final: the call ended with it; otherwise another attempt followed.
    """

    kind: str
    summary: str = ""
    final: bool

    @classmethod
    def of(cls, job: JobObservation) -> Self | None:
        """The verdict stored with ``job``, if there is one."""
        stored = job.annotations.get(VERDICT_ANNOTATION)
        return None if stored is None else cls(**json.loads(stored))

    def to_json(self) -> str:
        """As stored."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedAttempt:
    """An attempt that was followed by another one, and what that one did differently."""

    job: str
    kind: str
    summary: str
    remedy: str


def report_attempt(
    context: dg.AssetExecutionContext, number: int, job: str, find: Mapping[str, str], before: Sequence[FailedAttempt]
) -> None:
    """Put the start of an attempt into the UI, with the reason for it and how to find the job."""
    where = "; ".join(f"{what}: {how}" for what, how in find.items())
    reason = f" after {before[-1].kind}: {before[-1].summary}. This time: {before[-1].remedy}" if before else ""
    context.log.info(f"TrainJob {job}: attempt {number}{reason}; {where}")
    metadata: dict[str, Any] = {"trainjob": job, "trainjob/attempt": number}
    metadata |= {f"trainjob/{what}": how for what, how in find.items()}
    if before:
        metadata |= {
            "trainjob/reason": f"{before[-1].kind}: {before[-1].summary}",
            "trainjob/remedy": before[-1].remedy,
        }
    for key in sorted(context.selected_asset_keys):
        context.log_event(dg.AssetObservation(key, description=f"attempt {number}{reason}", metadata=metadata))


def attempts_table(job: str, before: Sequence[FailedAttempt]) -> dg.MetadataValue[Any]:
    """The attempts of a call that succeeded with ``job``, as a Markdown table."""
    lines = ["| attempt | TrainJob | outcome | then |", "|---|---|---|---|"]
    for number, failed in enumerate(before, start=1):
        summary = failed.summary.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {number} | {failed.job} | {failed.kind}: {summary} | {failed.remedy} |")
    lines.append(f"| {len(before) + 1} | {job} | {SUCCESS} | |")
    return dg.MetadataValue.md("\n".join(lines))

"""Creating a job through the Kubeflow SDK, with its refusals as our errors and what the server stored kept."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from forecast_assets.trainjob.errors import JobDetails, NotSubmittedError, TrainJobError
from forecast_assets.trainjob.kubernetes_api import Document, translated
from forecast_assets.trainjob.observation import Submission
from forecast_assets.trainjob.sdk_options import sdk_options


class Creation:
    """One attempt to create a job.

    Attributes:
        sent: the document that the SDK sent, if it came to that.
        stored: what the server stored of it, if it answered.
    """

    def __init__(self, backend: Any, details: JobDetails) -> None:
        # A copy: other threads may create jobs through the same backend.
        self._backend = copy(backend)
        self._recorder = _Recorder(backend.custom_api)
        self._backend.custom_api = self._recorder
        self._details = details

    @property
    def sent(self) -> Document | None:
        return self._recorder.sent

    @property
    def stored(self) -> Document | None:
        return self._recorder.stored

    def carry_out(self, submission: Submission, runtime: str, labels: Mapping[str, str]) -> None:
        """Create the job, with ``labels`` beside its own. Raises as `JobPlatform.submit`."""
        options = _options(submission, labels, self._details)
        try:
            found = self._backend.get_runtime(runtime)
            self._backend.train(runtime=found, trainer=submission.trainer, options=options)
        except (RuntimeError, TimeoutError, ValueError) as error:
            raise _refusal(error, runtime, self._details) from error


class _Recorder:
    """The SDK's API for custom objects, which remembers what is sent to create one and what the server stores."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.sent: Document | None = None
        self.stored: Document | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def create_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, body: Document
    ) -> Document:
        self.sent = body
        stored: Document = self._api.create_namespaced_custom_object(group, version, namespace, plural, body)
        self.stored = stored
        return stored


def _options(submission: Submission, labels: Mapping[str, str], details: JobDetails) -> list[Any]:
    """The SDK's options; it takes one of each kind, so labels and annotations given as options are merged with ours."""
    from kubeflow.trainer.options import Annotations, Labels, RuntimePatch

    if sum(isinstance(option, RuntimePatch) for option in submission.options) > 1:
        message = "it has several RuntimePatch options; the server takes one of each manager, so merge them"
        raise NotSubmittedError(message, details)
    labels, annotations = dict(labels), dict[str, str]()
    for option in submission.options:
        labels |= option.labels if isinstance(option, Labels) else {}
        annotations |= option.annotations if isinstance(option, Annotations) else {}
    others = [option for option in submission.options if not isinstance(option, Labels | Annotations)]
    labels, annotations = {**labels, **submission.labels}, {**annotations, **submission.annotations}
    return sdk_options(replace(submission, labels=labels, annotations=annotations, options=others))


def _refusal(error: Exception, runtime: str, details: JobDetails) -> TrainJobError:
    cause = error.__cause__
    if isinstance(error, ValueError) or cause is None:
        return NotSubmittedError(f"the SDK refuses it: {error}", details)
    refusal = translated(cause, details)
    if getattr(cause, "status", None) == 404:
        message = (
            f"there is no training runtime {runtime!r} in the namespace or the cluster, or no Kubeflow Trainer; "
            f"'kubectl -n {details.namespace} get trainingruntimes,clustertrainingruntimes' lists what there is"
        )
        return NotSubmittedError(message, details)
    return refusal

"""What can go wrong with a TrainJob.

TrainJobError
├── TrainJobFailedError     a process ended with a status other than 0
└── NoResultError           all processes ended with 0, but the job reported no materialization
"""


class TrainJobError(Exception):
    """Base of all errors of a TrainJob. The message names the job and says where its files are."""


class TrainJobFailedError(TrainJobError):
    """The job failed; the message holds its own reason if it gave one, else the end of the failed node's log."""


class NoResultError(TrainJobError):
    """The job ended well by its exit status but reported no result. It is not taken for a success."""

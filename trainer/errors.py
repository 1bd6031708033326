"""What can end a training or a forecast.

TrainerError                the caller's mistake: one clear line, no traceback, exit status 2
 ├─ SpecError               the training spec: names the field, its value and what is allowed
 ├─ FrameError              the training frame: incomplete, corrupt, or too short for the split
 ├─ DeviceError             the processes' devices: some have a GPU, and others have none
 ├─ BundleError             the model bundle: incomplete or corrupt
 └─ CheckpointMismatchError a checkpoint of another frame, spec or code: names the two hashes
TrainingFailure             what happened to the training: one clear line, exit status 1
 ├─ DivergedError           the loss stayed NaN or exploding after several roll-backs
 ├─ OutOfDeviceMemoryError  not even the smallest part of a batch fits on the device
 ├─ CollectiveError         another process died or did not answer within the time-out
 ├─ CheckpointWriteError    a checkpoint could not be written
 └─ LostDatabaseError       the feature store's database did not answer
Interrupted                 a signal: the state is saved, exit status 75 (EX_TEMPFAIL), start again to go on
"""

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1
EXIT_RESUME_ME = 75


class TrainerError(ValueError):
    """The caller's mistake: the message alone says what to put right."""

    kind = "user_error"
    exit_status = EXIT_USER_ERROR


class SpecError(TrainerError):
    """A field of the training spec is unknown, missing or out of bounds."""


class FrameError(TrainerError):
    """The training frame is incomplete, corrupt, lacks a column, or is too short for the split."""


class DeviceError(TrainerError):
    """Some processes have a GPU, and others have none."""


class BundleError(TrainerError):
    """The model bundle is incomplete or corrupt."""


class CheckpointMismatchError(TrainerError):
    """The checkpoint was written by a training on another frame, by another spec, or by another trainer's code."""


class TrainingFailure(RuntimeError):  # noqa: N818 - a family of errors
    """Something outside the caller's documents ended the training; `kind` tells a launcher what to change.

    apart: whether it happened to this process alone, while the others went on: they cannot be met once more.
    """

    kind = "failure"
    exit_status = EXIT_FAILURE
    apart = False


class DivergedError(TrainingFailure):
    """The loss became NaN or exploded again and again, at ever smaller learning rates."""

    kind = "diverged"


class OutOfDeviceMemoryError(TrainingFailure):
    """The device has too little memory; recorded adjustments make the next start need less, if any are left."""

    kind = "cuda_out_of_memory"


class CollectiveError(TrainingFailure):
    """A process of the group died, or did not answer within the time-out."""

    kind = "collective_timeout"


class CheckpointWriteError(TrainingFailure):
    """A checkpoint could not be written, after retries."""

    kind = "checkpoint_write"


class LostDatabaseError(TrainingFailure):
    """The feature store's database did not answer, after retries."""

    kind = "lost_database"


class Interrupted(TrainingFailure):
    """A signal ended the training after a step, and its state is saved."""

    kind = "interrupted"
    exit_status = EXIT_RESUME_ME

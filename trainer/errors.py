"""What can be wrong with what a training or a forecast is given.

TrainerError            one clear line, no traceback, exit status 2
 ├─ SpecError           the training spec: names the field, its value and what is allowed
 ├─ FrameError          the training frame: incomplete, corrupt, or too short for the split
 └─ BundleError         the model bundle: incomplete or corrupt
"""


class TrainerError(ValueError):
    """The caller's mistake: the message alone says what to put right."""


class SpecError(TrainerError):
    """A field of the training spec is unknown, missing or out of bounds."""


class FrameError(TrainerError):
    """The training frame is incomplete, corrupt, lacks a column, or is too short for the split."""


class BundleError(TrainerError):
    """The model bundle is incomplete or corrupt."""

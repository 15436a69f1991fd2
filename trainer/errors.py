"""What can go wrong in training for a reason that the user can fix; each text is one line."""

from whisker_ml.errors import EXIT_AGAIN, EXIT_GATE_REFUSED, EXIT_STOPPED, WhiskerError


class ConfigError(WhiskerError):
    """A setting has a value that cannot work."""


class DataError(WhiskerError):
    """The pictures, their folder, or where they should come from cannot be used."""


class WeightsError(WhiskerError):
    """Backbone weights are missing, or belong to another architecture."""


class DeviceError(WhiskerError):
    """The devices asked for are not there."""


class RunError(WhiskerError):
    """The run folder cannot be written, or belongs to another run."""


class PicturesChangedError(RunError):
    """The pictures are others than when the run began."""


class TrainingError(WhiskerError):
    """Training cannot go on: its numbers make no sense."""


class VerificationError(WhiskerError):
    """A server does not answer what was trained."""


class GateRefused(WhiskerError):
    """The candidate may not go live; its run folder is whole."""

    exit_code = EXIT_GATE_REFUSED


class RunStopped(WhiskerError):
    """The run was asked to stop, and has written a checkpoint to resume from."""

    exit_code = EXIT_STOPPED


class WorkersError(WhiskerError):
    """Another process of the run has not come, has gone, or does something else."""


class WorkerLostError(WorkersError):
    """Another process of the run is gone, or has not come; all of them may begin again."""

    exit_code = EXIT_AGAIN


class CloudError(WhiskerError):
    """The cloud refuses, or a job in it came to nothing."""


class SignInError(CloudError):
    """There are no credentials, or they are no longer good."""


class UnreachableError(CloudError):
    """The cloud does not answer."""

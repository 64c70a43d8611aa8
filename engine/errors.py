"""Every error a user can meet, drawn as a tree.

    EngineError
    |- Mistake                 the call, config, model, schema or cluster is wrong: exit 2, no row was scored
    |  |- ConfigError          a flag, TOML key, path or environment
    |  |- GraphError           the model file, or a tensor name in it
    |  |- SchemaError          a column that cannot become its tensor
    |  |- PlanError            inputs, output folder or an earlier plan
    |  `- ClusterError         the Ray cluster, or what one of its nodes sees
    |- DataError               a row or a file that cannot be read or converted: never retried
    |  `- RefusedError         storage that says no, whatever is there
    |- StorageError            storage hiccup: retried
    |- WorkerLostError         an actor or its node went away: retried
    `- JobFailedError          the job cannot go on: exit 1, carries the first cause
       `- JobInterrupted       SIGINT or SIGTERM: exit 130, the same command resumes

A message says where, what was expected, what was found and what to type instead. Constructors take
positional arguments with defaults only: Ray pickles errors, and keyword-only arguments do not survive.
"""


class EngineError(Exception):
    """Any error of this engine; `exit_code` is the command's, `retryable` the scheduler's."""

    retryable = False
    exit_code = 1


class Mistake(EngineError):
    """Something the caller can mend; found before a row is scored."""

    exit_code = 2


class ConfigError(Mistake):
    """A flag, TOML key, path or environment setting that cannot be used."""


class GraphError(Mistake):
    """A model file that cannot be scored with, or a tensor name that it does not hold."""


class SchemaError(Mistake):
    """A column that cannot become its tensor, or a tensor that cannot become a column."""


class PlanError(Mistake):
    """Inputs that cannot be planned, or an output folder that belongs to something else."""


class ClusterError(Mistake):
    """A Ray cluster that cannot be joined or cannot run what was asked."""


class DataError(EngineError):
    """A row or file that cannot be scored; `reason` is TensorFlow's class of error where the graph refused a batch."""

    def __init__(self, message: str = "", reason: str = "") -> None:
        """Keep the message, and the graph's reason."""
        super().__init__(message, reason)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        """Give the message alone."""
        return self.message


class RefusedError(DataError):
    """A file that the storage refuses to give; nothing is known of what is in it."""


class StorageError(EngineError):
    """Storage that did not answer as it should; the same call may succeed later."""

    retryable = True


class WorkerLostError(EngineError):
    """An actor, its process or its node went away."""

    retryable = True


class JobFailedError(EngineError):
    """The job cannot go on; finished parts stay, and the same command resumes."""


class JobInterrupted(JobFailedError):
    """SIGINT or SIGTERM; finished parts stay, and the same command resumes."""

    exit_code = 130

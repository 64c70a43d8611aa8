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

A message says where, what was expected, what was found and what to type instead; causes and cures below are in
docs/errors.md, which is made from here. Constructors take positional arguments with defaults only: Ray pickles errors,
and keyword-only arguments do not survive.
"""

import errno
import os

# What a person can do where the operating system refuses.
CURES = {
    errno.EACCES: "give this user the right (chmod, chown), or name another path",
    errno.EPERM: "give this user the right (chmod, chown), or name another path",
    errno.EROFS: "name a path on another disk",
    errno.ENOSPC: "make room, then type the same command again",
    errno.EDQUOT: "make room, then type the same command again",
}


def system_text(error: OSError) -> str:
    """Say what the operating system refuses, and what to do about it where that is known."""
    # pyarrow puts its own words and the path before the system's.
    said = error.strerror or str(error)
    text = os.strerror(error.errno) if error.errno in CURES else said
    return f"{text}; {CURES[error.errno]}" if error.errno in CURES else text


class EngineError(Exception):
    """Any error of this engine; `exit_code` is the command's, `retryable` the scheduler's.

    Cause: none of its own: every error below is one.
    Cure: `except EngineError` in Python catches them all; the message says what to do.
    """

    retryable = False
    exit_code = 1


class Mistake(EngineError):
    """Something the caller can mend; found before a row is scored.

    Cause: the call, the model, the schema, a folder or the cluster does not fit the job.
    Cure: type what the message says; the same command again gives the same answer.
    """

    exit_code = 2


class ConfigError(Mistake):
    """A flag, TOML key, path or environment setting that cannot be used.

    Cause: a misspelt key, a value of another kind, two options that exclude each other, a file that cannot be read or
        written.
    Cure: `icefloe VERB --help` and docs/options.md say what each option takes; the message names the nearest one.
    """


class GraphError(Mistake):
    """A model file that cannot be scored with, or a tensor name that it does not hold.

    Cause: a wrong path, a file that was cut short, a graph with variables, a placeholder that nothing feeds, an
        operation that reaches outside the graph.
    Cure: `icefloe describe MODEL` shows its tensors and a command to paste; `icefloe freeze` makes a frozen graph.
    """


class SchemaError(Mistake):
    """A column that cannot become its tensor, or a tensor that cannot become a column.

    Cause: a name that is not there, text where numbers are taken, another number of values a row, a cast that loses
        values.
    Cure: name another column (`--feed TENSOR=COLUMN`), or cast it upstream; docs/columns.md has the table.
    """


class PlanError(Mistake):
    """Inputs that cannot be planned, or an output folder that belongs to something else.

    Cause: no file where `--input` points, an output beside or inside its input, another job's parts, a folder that may
        not be written to.
    Cure: another path; for a changed job the old command, `--add`, another folder or `--overwrite`.
    """


class ClusterError(Mistake):
    """A Ray cluster that cannot be joined or cannot run what was asked.

    Cause: no cluster at the address, a token, other versions, no room for one actor, a GPU that TensorFlow does not
        see.
    Cure: leave `--address` out for this machine; ask for less; docs/operations.md has each message.
    """


class DataError(EngineError):
    """A row or file that cannot be scored; `reason` is TensorFlow's class of error where the graph refused a batch.

    Cause: a damaged Parquet file, more bad rows than `--max-bad-rows` allows, or no row that could be scored.
    Cure: mend the input; bad rows lie in `_icefloe/quarantine` with file, row and reason; or a larger `--max-bad-rows`.
    """

    def __init__(self, message: str = "", reason: str = "") -> None:
        """Keep the message, and the graph's reason."""
        super().__init__(message, reason)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        """Give the message alone."""
        return self.message


class RefusedError(DataError):
    """A file that the storage refuses to give; nothing is known of what is in it.

    Cause: this user, or the node's role, may not read it.
    Cure: give the right (`chmod`, the role's policy), then type the same command again.
    """


class StorageError(EngineError):
    """Storage that did not answer as it should; the same call may succeed later.

    Cause: a disk that is full, a store or a network that did not answer; each shard was tried `--max-attempts` times.
    Cure: make room or wait, then type the same command again: finished parts stay.
    """

    retryable = True


class WorkerLostError(EngineError):
    """An actor, its process or its node went away.

    Cause: out of memory, a crash of native code, a spot machine that was taken back.
    Cure: nothing while others go on; else fewer actors a node (`--cpus-per-actor`), a smaller `--batch-size`, and the
        same command.
    """

    retryable = True


class JobFailedError(EngineError):
    """The job cannot go on; finished parts stay, and the same command resumes.

    Cause: the first cause, which stands in the message: a shard that failed on every attempt, an output that is not as
        it was.
    Cure: mend that cause, then type the same command again.
    """


class JobInterrupted(JobFailedError):
    """SIGINT or SIGTERM; finished parts stay, and the same command resumes.

    Cause: Ctrl-C, `kill`, `ray job stop`, a scheduler's time limit.
    Cure: type the same command again.
    """

    exit_code = 130

"""Turns `JobConfig` into flags, and errors into exit codes; the verbs share it.

The flags, their help and their checks all come from the one definition in `engine.config`; cyclopts reads the
words of the command line, pydantic judges them. Start at `with_job_options` and `run_app`.
"""

import inspect
import json
import logging
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_origin

import cyclopts
from pydantic.fields import FieldInfo

from engine.config import (
    FreezeConfig,
    JobConfig,
    Theme,
    TuneConfig,
    build_config,
    build_freeze_config,
    build_tune_config,
)
from engine.data.storage.places import hide_secrets
from engine.errors import ConfigError, EngineError, system_text
from jobs.help import group_of, parameter_of

Verb = Callable[..., None]
Draft = Callable[[JobConfig, str], None]

# What `tune` finds out by itself or has options of its own for, and what only a job on a cluster has.
NOT_OF_TUNING = (
    *("model", "output", "overwrite", "batch_size", "actors", "precision", "xla"),
    *("shard_size", "address", "add", "max_attempts", "stall_timeout", "max_bad_rows"),
)
# What job.toml may say beside the job: one file serves all verbs, and each takes what is its own.
KEYS_OF_VERBS = ("simulate", "rate", "json", "quiet", "verbose", "log_level")
JOB_FILE = "job.toml"
# Where a job that was told none writes to; the file that is made says so.
NO_OUTPUT = "out"


def with_job_options(verb: Verb, draft: Draft | None = None) -> Verb:
    """Give `verb(config, **own)` a flag for every field of `JobConfig`, and `--config`.

    The flags reach the verb as one checked `JobConfig`; its own keyword parameters stay flags of their own. With a
    `draft` there is `--init` too: that is called instead, with what the flags say and the path of the file to write.
    """
    own = list(inspect.signature(verb).parameters.values())[1:]

    def command(**given: Any) -> None:
        mine = {parameter.name: given.pop(parameter.name, parameter.default) for parameter in own}
        path, is_init = given.pop("config", None), given.pop("init", False)
        flags = {name: value for name, value in given.items() if value is not None}
        if draft is not None and is_init:
            draft(build_config({"output": NO_OUTPUT, **flags}), path or JOB_FILE)
            return
        settings = read_job_file(path)
        mine = {name: _own_value(name, value, settings) for name, value in mine.items()}
        verb(build_config({**_of_job(settings), **flags}), **mine)

    init = [] if draft is None else [INIT]
    return _dressed(command, verb, [*_parameters(JobConfig), CONFIG, *init, *own])


def _of_job(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the job, without what it says to verbs."""
    return {name: value for name, value in settings.items() if name not in KEYS_OF_VERBS}


def _own_parameter(name: str, default: object, kind: object, help_text: str) -> inspect.Parameter:
    shown = cyclopts.Parameter(
        help=help_text, group=group_of(Theme.JOB_FILE), metavar="PATH", negative="", show_default=False
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown])


CONFIG = _own_parameter(
    "config", None, str | None, "TOML file with any of these options (underscores in names); flags win over it."
)
INIT = _own_parameter(
    "init",
    False,
    bool,
    "Score nothing, but write such a file, filled in from the model and the first input file, to --config; a file that "
    f"is there stays unless --overwrite. [default of --config: {JOB_FILE}]",
)


def with_freeze_options(verb: Verb) -> Verb:
    """Give `verb(source, dest, config, **own)` a flag for every field of `FreezeConfig`; the rest stays its own."""
    source, dest, _, *own = inspect.signature(verb).parameters.values()

    def command(*places: str, **given: Any) -> None:
        mine = {parameter.name: given.pop(parameter.name, parameter.default) for parameter in own}
        settings = {name: value for name, value in given.items() if value is not None}
        verb(*places, build_freeze_config(settings), **mine)

    return _dressed(command, verb, [source, dest, *_parameters(FreezeConfig), *own])


def with_tune_options(verb: Verb) -> Verb:
    """Give `verb(settings, config, model, **own)` a flag for every field of `TuneConfig`, and the job's that matter.

    `settings` are the job's, from `--config` and the flags; `output` and the like in that file are the job's, too.
    """
    _, _, model, *own = inspect.signature(verb).parameters.values()
    flags = [each for each in _parameters(JobConfig) if each.name not in NOT_OF_TUNING]

    def command(*models: str | None, **given: Any) -> None:
        mine = {parameter.name: given.pop(parameter.name, parameter.default) for parameter in own}
        settings = _of_job(read_job_file(given.pop("config", None)))
        given = {name: value for name, value in given.items() if value is not None}
        settings.update({name: given.pop(name) for name in list(given) if name not in TuneConfig.model_fields})
        verb(settings, build_tune_config(given), next(iter(models), None), **mine)

    return _dressed(command, verb, [model, *flags, *_parameters(TuneConfig), CONFIG, *own])


def _dressed(command: Verb, verb: Verb, parameters: list[inspect.Parameter]) -> Verb:
    """Let `command` be read by cyclopts as if it were `verb` with these parameters."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = verb.__doc__
    command.__name__ = verb.__name__
    return command


def _own_value(name: str, given: object, settings: dict[str, Any]) -> object:
    """Return what the command line or else the file says of a verb's own option; a switch may be off in both."""
    found = settings.pop(name, False if isinstance(given, bool) else None)
    return (given or _switch(name, found)) if isinstance(given, bool) else found if given is None else given


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected true or false, found {value!r}")
    return value


def _parameters(kind: type[JobConfig] | type[FreezeConfig] | type[TuneConfig]) -> list[inspect.Parameter]:
    return [_parameter(name, field) for name, field in kind.model_fields.items()]


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    annotation: Any = str | None
    is_many = get_origin(field.annotation) in (tuple, dict) or name in ("keep", "dictionary")
    if field.annotation is bool:
        annotation = bool | None
    elif is_many:
        annotation = tuple[str, ...] | None
    settings = parameter_of(field, is_many)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, settings]
    )


def read_job_file(path: str | None) -> dict[str, Any]:
    """Read `job.toml`; an absent path is an empty file.

    Raises:
        ConfigError: if it cannot be read or is no TOML.
    """
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {system_text(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: no TOML: {error}") from error


def run_app(app: cyclopts.App, words: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed, 2 a mistake, 130 interrupted."""
    sys.exit(run(app, words))


def run(app: cyclopts.App, words: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors are one message on stderr."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where there is no home to keep a cache of fonts
    try:
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _fail(str(error), 2)
    except EngineError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; finished parts stay, the same command resumes", 130)
    except BrokenPipeError:  # the reader of our output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"icefloe: error: {hide_secrets(message)}\n")
    return code


def print_json(document: object) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")

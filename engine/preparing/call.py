"""The call itself: paths made absolute, options that do not go together, an output apart from the inputs.

Looks at no model and no column. Start at `settle_paths`.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

from engine.config import JobConfig
from engine.data.listing import would_list
from engine.data.pieces import InputFile
from engine.data.storage.connecting import connected
from engine.data.storage.places import is_inside, is_local, local_path, place_of, without_secrets
from engine.errors import ConfigError, PlanError


def settle_paths(config: JobConfig) -> JobConfig:
    """Return the call with absolute paths and URIs that can be reached.

    Raises:
        ConfigError: for a relative path inside a Ray job, or a URI whose scheme or options are not known.
    """
    for path in config.op_library:
        if not is_local(path):
            raise ConfigError(f"--op-library {place_of(path)}: expected a local path, which TensorFlow can load from")
    return config.model_copy(
        update={
            "model": _absolute(config.model, "--model"),
            "input": tuple(_absolute(uri, "--input") for uri in config.input),
            "output": _absolute(config.output, "--output"),
            "op_library": tuple(_absolute(path, "--op-library") for path in config.op_library),
        }
    )


def _absolute(uri: str, flag: str) -> str:
    """Return the absolute path, or the URI; inside a Ray job the working folder is a copy that goes with the job."""
    if not is_local(uri):
        try:
            connected(uri)
        except ConfigError as error:
            raise ConfigError(f"{flag} {error}") from error
        return uri
    path = local_path(uri)
    if not os.path.isabs(path) and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise ConfigError(f"{flag} {path}: a relative path inside a Ray job; name the whole path, /...")
    return os.path.abspath(path)


def job_settings(config: JobConfig) -> dict[str, Any]:
    """Return what the caller has said of the job, with whole paths and without secrets."""
    settled = settle_paths(config)
    settings = {
        name: value for name, value in settled.model_dump(mode="json").items() if name in config.model_fields_set
    }
    settings["model"] = without_secrets(settled.model)
    settings["input"] = [without_secrets(uri) for uri in settled.input]
    if "output" in settings:
        settings["output"] = without_secrets(settled.output)
    return settings


def check_together(config: JobConfig) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: naming both.
    """
    twice = sorted(set(config.feed) & set(config.set))
    if twice:
        raise ConfigError(f"{twice[0]} is both fed (--feed) and set (--set); leave one of them out")
    if config.add and config.limit is not None:
        raise ConfigError(f"--add scores all new files, --limit {config.limit} only the first rows; type one of them")
    if config.add and config.overwrite:
        raise ConfigError("--add goes on with what is there, --overwrite discards it; type one of them")


def check_output_apart(config: JobConfig, files: Sequence[InputFile]) -> None:
    """Refuse an output that would become an input, or holds one.

    Raises:
        PlanError: naming both.
    """
    output = place_of(config.output)
    for uri in config.input:
        if would_list(uri, output):
            raise PlanError(f"--output {output} lies inside the input {place_of(uri)}; name a folder beside it")
    real = functools.cache(os.path.realpath)
    inside = real(output) if is_local(output) else output
    for file in files:
        if is_local(file.path) == is_local(output):
            folder, name = os.path.split(file.path)
            if is_inside(f"{real(folder) if is_local(folder) else folder}/{name}", inside):
                raise PlanError(f"--output {output} holds the input file {file.path}; name a folder beside it")

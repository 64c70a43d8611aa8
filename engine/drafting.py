"""A job.toml drafted from a model and the first input file, for a person to go over (`icefloe score --init`).

Imports neither TensorFlow nor Ray. Start at `draft_job`, then `write_job_file`.
"""

import contextlib
import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from engine.config import JobConfig, Theme, theme_of
from engine.data.columns import InputSchema
from engine.data.guessing import Guess, guess_feeds
from engine.data.listing import list_inputs
from engine.data.storage.copying import local_copy
from engine.data.storage.places import is_local, place_of
from engine.data.storage.reading import storage_of
from engine.errors import ConfigError, system_text
from engine.job_toml import SCHEMA_LINE, setting_lines, toml_text
from engine.model.describing.describe import describe_model, open_model
from engine.model.tensor import TensorSpec
from engine.preparing.call import job_settings, settle_paths
from engine.preparing.inputs import look_at_first, prune_folders
from engine.preparing.prepare import bind_job_model
from engine.view.commands import acting_operations, needed_inputs, score_settings

WIDTH = 100
# Stands for a column that the caller has to name.
NO_COLUMN = "COLUMN"
# What a call says of itself, and a file had better not: they would discard, or add, again and again.
OF_THE_CALL = ("overwrite", "add")


@dataclass(frozen=True, slots=True)
class Draft:
    """A job as it may be meant."""

    text: str
    """The job.toml."""
    model: str
    """The model."""
    first: str
    """The input file that was looked at."""
    guesses: tuple[Guess, ...]
    """What fills which tensor, where the call did not say so."""
    open_constants: tuple[str, ...]
    """Tensors that take one value for all rows, which nothing tells."""
    acting: tuple[str, ...]
    """Operations that reach outside the graph, which the call did not let through."""


@dataclass(frozen=True, slots=True)
class _Ports:
    """What a model takes and gives, as far as it tells by itself."""

    feeds: tuple[TensorSpec, ...]
    """Tensors that take rows."""
    columns: Mapping[str, str]
    """The name that each of them would like its column to have."""
    settings: Mapping[str, Any]
    """What else a job has to be told."""
    open_constants: tuple[str, ...]
    """Tensors that take one value for all rows, which nothing tells."""
    acting: tuple[str, ...]
    """Operations that reach outside the graph."""


def draft_job(config: JobConfig) -> Draft:
    """Fill in a job: what the call says stays, the ports are the model's own, and columns are guessed.

    Raises:
        Mistake: if the model cannot be scored with, or the input is not there.
        DataError: if the first input file is damaged.
    """
    settled = settle_paths(config)
    ports = _read_ports(settled, config)
    storage = storage_of(settled.input)
    listed = prune_folders(settled.model_copy(update={"where": ()}), list_inputs(settled.input), storage)
    first, _ = look_at_first(listed.files, listed.partitions, storage)
    guesses: tuple[Guess, ...] = ()
    settings = {**ports.settings, **_given(config), "set": ports.settings.get("set", {})}
    if "feed" not in config.model_fields_set:
        guesses = guess_feeds(first, ports.feeds, ports.columns, bool(settings.get("unbatched")))
        settings["feed"] = {guess.tensor.name: guess.column or NO_COLUMN for guess in guesses}
    acting = tuple(name for name in ports.acting if name not in config.allow_op)
    text = "\n".join(_lines(settings, guesses, ports.open_constants, acting, first)) + "\n"
    return Draft(text, place_of(settled.model), first.path, guesses, ports.open_constants, acting)


def _given(config: JobConfig) -> dict[str, Any]:
    return {name: value for name, value in job_settings(config).items() if name not in OF_THE_CALL}


def _read_ports(settled: JobConfig, config: JobConfig) -> _Ports:
    """Return the ports: a frozen graph's as `describe` tells them, those of all else as they are when it is frozen."""
    with local_copy(settled.model) as path:
        description = describe_model(open_model(path))
    told = score_settings(description)
    known = {name: json.loads(value) for name, value in told["set"].items() if value != "VALUE"}
    constants = known | config.set
    settings: dict[str, Any] = {"set": constants} if constants else {}
    acting = tuple(acting_operations(description))
    if not description.is_source:
        specs = [spec for spec in needed_inputs(description) if spec.name in told["feed"]]
        settings |= {name: told[name] for name in ("fetch", "init_op", "unbatched") if told.get(name)}
        unknown = tuple(name for name in told["set"] if name not in constants)
        return _Ports(tuple(specs), told["feed"], settings, unknown, acting)
    given = config.model_fields_set - {"feed"}
    bound = bind_job_model(settled.model_copy(update={"set": constants}), given)
    settings |= {"fetch": dict(bound.fetch)}
    return _Ports(tuple(bound.specs[name] for name in bound.feed), bound.feed, settings, (), acting)


def _lines(
    settings: Mapping[str, Any],
    guesses: tuple[Guess, ...],
    open_constants: tuple[str, ...],
    acting: tuple[str, ...],
    first: InputSchema,
) -> Iterator[str]:
    remarks = {guess.tensor.name: _remark(guess) for guess in guesses}
    yield SCHEMA_LINE
    yield "# A job of icefloe. Lines that are commented out are examples: without them the default holds. Flags win."
    yield "# What it would do: icefloe plan --config THIS. To do it: icefloe score --config THIS."
    for theme in Theme:
        fields = {name: field for name, field in JobConfig.model_fields.items() if theme_of(field) is theme}
        if fields:
            yield from ("", f"# ---- {theme} ----")
        for name, field in fields.items():
            yield ""
            yield from _comment(" ".join(str(field.description).split()))
            if name == "feed":
                yield from _comment(f"{first.path} has {', '.join(map(toml_text, first.whole.names))}.")
            if name == "set":
                for tensor in open_constants:
                    yield from _comment(f"{toml_text(tensor)} takes one value for all rows: say it here.")
            shown = _shown(field)
            if name == "allow_op" and acting:
                shown = acting
                for operation in acting:
                    yield f"# {toml_text(operation)} reaches outside the graph and is refused unless it is named here."
            yield from _option_lines(name, shown, settings.get(name), remarks if name == "feed" else {})


def _option_lines(name: str, shown: object, value: object, remarks: Mapping[str, str]) -> Iterator[str]:
    """Yield an option as it is set, else what is `shown` of it as a comment."""
    lines = setting_lines(name, value)
    if not lines:
        yield from (f"# {line}" for line in setting_lines(name, shown))
        return
    keys = list(value) if isinstance(value, Mapping) else []
    for i, line in enumerate(lines):
        remark = remarks.get(keys[i], "") if keys else ""
        yield f"{line}  # {remark}" if remark else line


def _shown(field: FieldInfo) -> object:
    """Return the default of an option, or an example where a file cannot say it."""
    return field.examples[0] if field.examples else field.default


def _remark(guess: Guess) -> str:
    tensor = str(guess.tensor).partition(" ")[2].strip("()")
    if not guess.column:
        return f"{tensor}: no column fits; name one"
    others = f"; others that fit: {', '.join(map(toml_text, guess.others))}" if guess.others else ""
    return f"{tensor}{others}"


def _comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False))


def check_job_file(path: str, is_replaced: bool) -> None:
    """Check that a job file can be written.

    Raises:
        ConfigError: if one is there and is not to be replaced, or it lies elsewhere.
    """
    if not is_local(path):
        raise ConfigError(f"--config {place_of(path)}: expected a file of this machine to write")
    if os.path.lexists(path) and not is_replaced:
        raise ConfigError(f"--config {path}: is there already; name another, or type --overwrite")


def write_job_file(path: str, text: str) -> None:
    """Write a job file, whole or not at all; a link that is there goes on leading to it.

    Raises:
        ConfigError: if it cannot be written.
    """
    target = os.path.realpath(path)
    draft = Path(f"{target}.{os.getpid()}")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigError(f"--config {path}: cannot be written ({system_text(error)})") from error

"""The command that a job was started with, as its plan keeps it: what differs from the defaults, ready to paste. Pure.

Start at `rerun_command`.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import JobConfig

# Typing this again would discard what is there.
LEFT_OUT = ("overwrite",)
MAX_PLACES = 100


def given_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plan that differ from the defaults, in the order of the options."""
    fields = JobConfig.model_fields
    defaults = {name: _plain(field.get_default()) for name, field in fields.items() if not field.is_required()}
    return {
        name: config[name]
        for name in fields
        if name in config and (name not in defaults or _plain(config[name]) != defaults[name])
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples as lists."""
    return json.loads(json.dumps(value))


def rerun_command(config: Mapping[str, Any]) -> str:
    """Return `icefloe score` with the options of a plan's `config`; the same job again, which is to resume it."""
    lines = ["icefloe score"]
    for name, value in given_settings(config).items():
        if name not in LEFT_OUT:
            lines += _lines(f"--{name.replace('_', '-')}", name, value)
    return " \\\n  ".join(lines)


def verify_command(output: str) -> str:
    """Return `icefloe verify` of an output."""
    return shlex.join(["icefloe", "verify", output])


def _lines(flag: str, name: str, value: Any) -> list[str]:
    """Return an option as lines of a command, one for each of its values."""
    if isinstance(value, bool):
        return [flag] * value
    if isinstance(value, Mapping):
        texts = [f"{key}={json.dumps(each) if name == 'set' else each}" for key, each in value.items()]
        return [shlex.join([flag, text]) for text in texts]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [shlex.join([flag, str(each)]) for each in value[:MAX_PLACES]]
    if isinstance(value, float):
        return [f"{flag} {value:g}"]
    return [shlex.join([flag, str(value)])]

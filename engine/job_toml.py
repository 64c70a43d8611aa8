"""How a job.toml is written: its first line, for editors, and options with their values.

Pure; Python reads TOML by itself and writes none. Start at `setting_lines`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConfigError

SCHEMA = Path(__file__).with_name("job.schema.json")
# Editors with taplo in them (Even Better TOML) check and complete the file by it.
SCHEMA_LINE = f"#:schema {SCHEMA}"


def setting_lines(name: str, value: object) -> list[str]:
    """Write an option: a line, or a line for each entry of a table, so that each may have a comment of its own.

    None and an empty table give no line.

    Raises:
        ConfigError: for None inside a value.
    """
    if isinstance(value, Mapping):
        return [f"{name}.{toml_text(str(key))} = {toml_value(each)}" for key, each in value.items()]
    return [] if value is None else [f"{name} = {toml_value(value)}"]


def toml_value(value: object) -> str:
    """Write a value as TOML has it: a text, number, switch, list or table of these.

    Raises:
        ConfigError: for None.
    """
    if value is None:
        raise ConfigError("a value holds a null, which a TOML file cannot say; leave it out, or say it as a flag")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_text(key)} = {toml_value(each)}" for key, each in value.items()) + "}"
    return toml_text(str(value))


def toml_text(text: str) -> str:
    """Write a basic string: as JSON has it, but for DEL, which TOML wants escaped, and letters, which it does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

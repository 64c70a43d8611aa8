"""Makes what the code itself says of options and errors: docs/options.md, docs/errors.md, engine/job.schema.json.

`make docs` writes them; a test fails where they are not what the code says. Start at `documents`.
"""

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cyclopts

from engine import errors
from engine.config import JobConfig, SimulationConfig, Theme
from engine.errors import EngineError
from jobs.__main__ import app
from jobs.command_line import KEYS_OF_VERBS
from jobs.logs import LEVELS

ROOT = Path(__file__).resolve().parents[1]
MADE = "<!-- Made by docs/generate.py (make docs) from what the code says; do not edit. -->"
# Verbs whose options job.toml may hold.
JOB_VERBS = ("score", "plan")
OPTIONS_HEAD = """
# Options

Every option of every verb; `icefloe VERB --help` shows those of one. *Key* is its name in a `job.toml` for `--config`
(`score`, `plan`, `tune`); flags win over the file. `icefloe score --init` writes one, filled in from a model and its
input. Options that end in `...` take several values, and may be repeated.

Editors check and complete a `job.toml` by its schema, `engine/job.schema.json`, which is installed with the package.
Those with taplo in them (Even Better TOML in Visual Studio Code, Helix, Neovim) find it by the first line,
`#:schema /path/to/job.schema.json`, which `icefloe score --init` and `icefloe tune` write; `taplo check job.toml` goes
by it too. The schema is a little stricter than `icefloe`, which also takes numbers as texts: `batch_size = "64"`.
"""
ERRORS_HEAD = """
# Errors and exit codes

An error is one message on stderr, `icefloe: error: `, that says where, what was expected, what was found and what to
type. This page has the kinds; [operations.md](operations.md) goes by what a message says.

| exit code | what it means | what to do |
|---|---|---|
| 0 | done; also with bad rows inside their budget, and when nothing was left to do | |
| 1 | the job failed; `verify` found something wrong; or whoever read the output went away | mend the cause, then the \
same command: finished parts stay |
| 2 | a mistake in the call, model, schema, folders or cluster; no row was scored | what the message says; the same \
command fails again |
| 130 | interrupted by SIGINT or SIGTERM | the same command resumes |

`ray job submit` gives 0 for 0, and 1 for all others.
"""


def documents() -> dict[Path, str]:
    """Return the text of each file that is made."""
    return {
        ROOT / "docs/options.md": options_page(),
        ROOT / "docs/errors.md": errors_page(),
        ROOT / "engine/job.schema.json": json.dumps(job_schema(), indent=1, ensure_ascii=False) + "\n",
    }


@dataclass(frozen=True, slots=True)
class Option:
    """An option of one verb, as its help shows it."""

    verb: str
    """The verb."""
    name: str
    """Name in Python, and in job.toml."""
    is_flag: bool
    """Whether it is typed by its name; else by its place."""
    placeholder: str
    """What stands for its value; empty for a switch."""
    theme: Theme
    """What it is about."""
    meaning: str
    """Its help, without the default."""
    default: str
    """Its default, in words."""

    @property
    def has_key(self) -> bool:
        """Whether job.toml may say it."""
        is_own = self.name in JobConfig.model_fields or self.name in KEYS_OF_VERBS
        return self.verb in JOB_VERBS and self.is_flag and is_own

    @property
    def typed(self) -> str:
        """The option as it is typed."""
        flag = "--" + self.name.replace("_", "-") if self.is_flag else self.name.upper()
        return f"{flag} {self.placeholder}".rstrip()


def options() -> Iterator[Option]:
    """Yield every option of every verb."""
    for verb in app:
        if verb.startswith("-"):
            continue
        command = app[verb].default_command
        for each in inspect.signature(command).parameters.values():
            yield _option(verb, each)


def _option(verb: str, parameter: inspect.Parameter) -> Option:
    kind, *notes = get_args(parameter.annotation)
    shown = next(note for note in notes if isinstance(note, cyclopts.Parameter))
    is_flag = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    is_switch = bool in (kind, *get_args(kind))
    usual = Theme.SHOWN if is_flag else Theme.ARGUMENTS
    theme = Theme(shown.group[0].name) if shown.group else usual
    meaning, _, default = str(shown.help).partition(" [default: ")
    default, _, more = default.partition("]")
    if not default:
        required = parameter.default is inspect.Parameter.empty or (theme is Theme.SCORED and verb in JOB_VERBS)
        default = "off" if is_switch else "required" if required else "none"
    placeholder = "" if is_switch or not is_flag else shown.metavar or "VALUE"
    return Option(verb, parameter.name, is_flag, placeholder, theme, f"{meaning}{more.lstrip('.')}", default)


def options_page() -> str:
    """Return the reference of all options: a table a theme, a row for each meaning."""
    lines = [MADE, OPTIONS_HEAD.rstrip()]
    rows: dict[tuple[Theme, str, str], list[Option]] = {}
    for each in options():
        rows.setdefault((each.theme, each.typed, each.meaning), []).append(each)
    for theme in Theme:
        mine = [found for key, found in rows.items() if key[0] is theme]
        if mine:
            lines += ["", f"## {theme}", "", "| option | key | meaning | default | verbs |", "|---|---|---|---|---|"]
        for found in mine:
            first, verbs = found[0], ", ".join(each.verb for each in found)
            key = f"`{first.name}`" if any(each.has_key for each in found) else ""
            cells = (f"`{first.typed}`", key, _plain(first.meaning), _plain(first.default), verbs)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Escape what markdown would take for emphasis."""
    return text.replace("*", "\\*").replace("_", "\\_")


def errors_page() -> str:
    """Return every error with its cause and cure, and what exit codes mean."""
    tree = textwrap.dedent(inspect.cleandoc(str(errors.__doc__)).split("\n\n")[1])
    lines = [MADE, ERRORS_HEAD, "```", tree, "```", "", "In Python they are in `engine.errors`."]
    for kind in error_classes():
        what, *parts = inspect.cleandoc(str(kind.__doc__)).split("\n\n")
        notes = dict(re.findall(r"^(Cause|Cure): (.*?)(?=^\S|\Z)", "\n".join(parts), re.S | re.M))
        told = {name: " ".join(text.split()) for name, text in notes.items()}
        retried = "retried by the job itself" if kind.retryable else "never retried"
        lines += ["", f"## {kind.__name__}", "", f"{what} Exit code {kind.exit_code}, {retried}.", ""]
        lines += [f"- **Cause**: {told['Cause']}", f"- **Cure**: {told['Cure']}"]
    return "\n".join(lines) + "\n"


def error_classes() -> list[type[EngineError]]:
    """Return every error class, in the order of the module."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EngineError)]
    return sorted(found, key=lambda kind: inspect.getsourcelines(kind)[1])


def job_schema() -> dict[str, Any]:
    """Return the JSON schema of a job.toml: what options may be, and what a file may say to the verbs."""
    properties = dict(JobConfig.model_json_schema()["properties"])
    properties |= SimulationConfig.model_json_schema()["properties"]
    for name, option in _keys_of_verbs().items():
        if name not in properties:
            kind = {"enum": list(LEVELS)} if name == "log_level" else {"type": "boolean"}
            properties[name] = {"description": option.meaning, **kind}
    for each in properties.values():
        each.pop("title", None)
        each["description"] = " ".join(each["description"].split())
        if each.get("default") in (None, [], {}):
            each.pop("default", None)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "job.toml of icefloe",
        "description": " ".join(str(JobConfig.__doc__).split()),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _keys_of_verbs() -> dict[str, Option]:
    """Return what a file may say beside the job, by name; the last verb that has it tells what it means."""
    found = {option.name: option for option in options() if option.has_key}
    return {name: found[name] for name in KEYS_OF_VERBS if name in found}


def main() -> None:
    """Write the files."""
    for path, text in documents().items():
        path.write_text(text)
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

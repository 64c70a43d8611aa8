"""What `--help` and `--version` show: options by theme, verbs by when they are typed, examples that work.

Themes and meanings come from `engine.config`; nothing here imports TensorFlow, Ray or pyarrow. Start at `new_app`.
"""

import functools
import platform
from enum import StrEnum

import cyclopts
from pydantic.fields import FieldInfo

from engine.config import Theme, theme_of
from engine.options import Placeholder
from engine.run.versions import installed_versions

NAMES = {"engine": "icefloe", "tensorflow": "TensorFlow", "ray": "Ray", "pyarrow": "pyarrow"}
EXAMPLES = """\
Examples:

  icefloe describe model.pb
  icefloe plan --model model.pb --input data/ --output out/
  icefloe score --model model.pb --input data/ --output out/

icefloe VERB --help shows the options of a verb, python -m jobs.VERB is the same as icefloe VERB."""


class Moment(StrEnum):
    """When a verb is typed, in the order in which help shows them."""

    SCORE = "Score"
    BEFORE = "Before a job"
    AFTER = "During and after a job"


def new_app(verb: str = "", moment: Moment = Moment.AFTER, usage: str = "", *examples: str) -> cyclopts.App:
    """Return the application of a verb, or the one that holds them all.

    Args:
        verb: its name; empty for the application of all verbs.
        moment: when it is typed.
        usage: what follows its name.
        examples: command lines that work where model.pb, data/ and out/ are there.
    """
    shown = "\n".join(("Examples:" if len(examples) > 1 else "Example:", "", *(f"  {line}" for line in examples)))
    app = cyclopts.App(
        name=verb or "icefloe",
        help=None if verb else "Score Parquet with frozen TensorFlow graphs on Ray.",
        help_epilogue=shown if examples else None if verb else EXAMPLES,
        help_format="plaintext",
        usage=f"icefloe {verb} {usage}" if verb else "icefloe VERB [OPTIONS]",
        version=version_text,
        group=group_of(moment) if verb else None,
        group_arguments=group_of(Theme.ARGUMENTS),
        group_parameters=group_of(Theme.SHOWN),
        suppress_keyboard_interrupt=False,
    )
    for flag, text in (("--help", "Show this."), ("--version", "Show what is installed: icefloe, TensorFlow, Ray...")):
        app[flag].group, app[flag].help = (group_of(Theme.HELP),), text
    return app


@functools.cache
def group_of(title: Theme | Moment) -> cyclopts.Group:
    """Return the group of options or verbs under a title; cyclopts wants one object for each."""
    return cyclopts.Group(title.value, sort_key=list(type(title)).index(title))


def meaning_of(field: FieldInfo) -> str:
    """Return an option's docstring as one paragraph."""
    return " ".join(str(field.description).split())


def placeholder_of(field: FieldInfo) -> str:
    """Return what stands for an option's value."""
    own = [each for each in field.metadata if isinstance(each, Placeholder)]  # the option's own after its type's
    return own[-1] if own else "NAME"


def parameter_of(field: FieldInfo, is_many: bool = False) -> cyclopts.Parameter:
    """Return how an option of `engine.config` is read and shown."""
    return cyclopts.Parameter(
        help=meaning_of(field),
        group=group_of(theme_of(field)),
        metavar=placeholder_of(field),
        consume_multiple=is_many,
        negative="",
        show_default=False,
    )


def version_text() -> str:
    """Return the versions of icefloe and of what decides its results, a line each; none of them is imported."""
    found = {**dict.fromkeys(NAMES, "not installed"), **installed_versions()}
    lines = [f"{NAMES[name]} {version}" for name, version in found.items()]
    return "\n".join((*lines, f"Python {platform.python_version()}"))

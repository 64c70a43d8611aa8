"""What a person is shown of a job that was drafted. Start at `print_draft`."""

import shlex
from typing import TYPE_CHECKING, TextIO

from engine.view.tables import print_table

if TYPE_CHECKING:
    from engine.drafting import Draft


def print_draft(draft: "Draft", path: str, stream: TextIO) -> None:
    """Print which column was guessed for which tensor, what is left to fill in, and what to type next."""
    rows = [("file", path), ("model", draft.model), ("first input", draft.first)]
    for guess in draft.guesses:
        others = f" (others that fit: {', '.join(guess.others)})" if guess.others else ""
        text = f"column {guess.column}{others}" if guess.column else "no column fits; name one in the file"
        rows.append(("guessed" if guess.column else "open", f"{guess.tensor} <- {text}"))
    rows += [
        ("open", f"{name} takes one value for all rows; say it in the file (set)") for name in draft.open_constants
    ]
    rows += [
        ("open", f"{name} reaches outside the graph; if that is meant, let it through in the file (allow_op)")
        for name in draft.acting
    ]
    print_table("Job file", [*rows, ("to look at", shlex.join(["icefloe", "plan", "--config", path]))], stream)

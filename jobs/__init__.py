"""Entry points, thin: each verb of `icefloe` is a module that also runs as `python -m jobs.VERB`.

What they cannot run without is looked at here, before anything else is imported: a Python that has the syntax of the
rest, in words that Python 2 parses; the packages; and a working folder that holds no other package of these names.
"""

import sys

OLDEST = (3, 11)

if sys.version_info[:2] >= OLDEST:
    from jobs.surroundings import check_packages, check_working_folder

    check_packages()
    check_working_folder()
else:
    found = ".".join(str(number) for number in sys.version_info[:2])
    sys.stderr.write(
        "icefloe: error: expected Python 3.11 or newer, found " + found + " (" + sys.executable + "); type "
        "make setup PYTHON=python3.11 in the checkout, then .venv/bin/icefloe\n"
    )
    raise SystemExit(2)

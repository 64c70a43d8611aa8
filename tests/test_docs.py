"""The documentation does what it says, and names nothing that is gone.

Fenced blocks of a page are run in order by one shell in an empty folder: `bash` as it stands, `python` and `toml` as
the file that their first line names, `text` as lines that the block before has printed, in that order, where `...`
stands for anything. Blocks of `sh` need more than this machine; of them as of all others, every command is parsed.
"""

import ast
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import pytest
from object_store import ACCESS_KEY, REGION, SECRET_KEY, ObjectStore

from jobs.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
HOW_TOS = [page for page in sorted((ROOT / "docs" / "how-to").glob("*.md")) if "```bash" in page.read_text()]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGE_IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
VERBS = [name for name in app if not name.startswith("-")]
# Of Ray, Docker, uv and a script of bench/.
FLAGS_OF_OTHERS = {
    *("--submission-id", "--no-wait", "--entrypoint-num-cpus", "--working-dir", "--shm-size", "--metrics-export-port"),
    *("--growth", "--resolution", "--upgrade"),
}
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END_OF_BLOCK = "=== end of block"
OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "&", "2>", "(", ")"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return [(language, text) for language, text in BLOCK.findall(page.read_text())]


def as_shell(language: str, text: str) -> str:
    """What a shell has to do for a block; nothing for those that are only to be read."""
    if language == "bash":
        return text
    if language in ("python", "toml"):
        named = re.match(r"# (\S+\.(?:py|toml))\n", text)
        target = f"cat > {named[1]}" if named else "python -"
        return f"{target} <<'END OF FILE'\n{text}END OF FILE\n" if named or language == "python" else ""
    return ""


def run_page(page: Path, folder: Path, **more: str) -> list[tuple[str, str, list[str]]]:
    """Run a page's blocks in `folder`, with `more` in the environment; return each with the lines that it printed."""
    found = blocks(page)
    script = "".join(f"{as_shell(*block)}echo '{END_OF_BLOCK}'\n" for block in found)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\nexec 2>&1\n{script}"],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    printed = done.stdout.split(f"{END_OF_BLOCK}\n")
    assert done.returncode == 0, f"{page.name}, exit {done.returncode}: {found[len(printed) - 1][1]}\n{printed[-1]}"
    return [(*block, output.splitlines()) for block, output in zip(found, printed, strict=False)]


def check_printed(page: Path, expected: str, printed: list[str]) -> None:
    """Check that each expected line is printed, in this order."""
    rest = iter(printed)
    for line in expected.splitlines():
        pattern = re.compile(".*".join(map(re.escape, line.rstrip().split("..."))))
        assert any(pattern.fullmatch(each.rstrip()) for each in rest), "\n".join(
            [f"{page.name}: in what was printed there is not, or not in this order:", line, "printed was:", *printed]
        )


def check_page(page: Path, folder: Path, **more: str) -> None:
    before: list[str] = []
    for language, text, printed in run_page(page, folder, **more):
        if language == "text":
            check_printed(page, text, before)
        else:
            before = printed


@pytest.mark.ray
@pytest.mark.tf
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    check_page(TUTORIAL, tmp_path)


@pytest.mark.docs
@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_the_how_to_does_what_it_says(page: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tests" / "pages.py", page.stem], cwd=tmp_path, check=True)
    if page.stem != "s3":
        check_page(page, tmp_path)
        return
    with ObjectStore("lake") as store:
        for file in tmp_path.rglob("*.*"):
            store.put(file.relative_to(tmp_path).as_posix(), file.read_bytes())
        names = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
        check_page(page, tmp_path, AWS_ENDPOINT_URL_S3=f"http://{store.endpoint}", **names)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words behind `icefloe`, and behind `python -m jobs.`, of every command in a shell's text."""
    for line in text.replace("\\\n", " ").splitlines():
        if not re.search(r"\bicefloe\b|-m jobs\b", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&<>")
        lexer.whitespace_split = True
        for is_operator, group in itertools.groupby(lexer, OPERATORS.__contains__):
            if not is_operator:
                yield from icefloe_words(list(group))


def icefloe_words(words: list[str]) -> Iterator[list[str]]:
    while words and re.match(r"[A-Z_]+=|\$$", words[0]):
        words = words[1:]
    if "--" in words and words[0] == "ray":
        words = words[words.index("--") + 1 :]
    module = next((word for word in words if word.startswith("jobs.")), "")
    if module and words[words.index(module) - 1] == "-m":
        words = ["icefloe", module.removeprefix("jobs."), *words[words.index(module) + 1 :]]
    if words and Path(words[0]).name == "icefloe" and words[1:] and words[1] != "VERB":
        yield [word for word in words[1:] if word != "..."]


def shell_texts(page: Path) -> Iterator[tuple[str, bool]]:
    """Yield every text of a page that may hold commands, and whether it is only mentioned."""
    for language, text in blocks(page):
        if language == "python":
            constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            yield from ((value, False) for value in constants if isinstance(value, str))
        elif language in ("bash", "sh"):
            yield text, False
        else:
            assert not re.search(r"^(icefloe|python|ray) ", text, re.MULTILINE), f"{page}: label this block sh:\n{text}"
    prose = BLOCK.sub("", page.read_text())
    yield from ((mention, True) for mention in re.findall(r"`((?:icefloe|python -m jobs)[^`]*)`", prose))


def parse(words: list[str], is_mention: bool) -> None:
    """Parse a command as the application does; what is only mentioned may lack arguments."""
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except cyclopts.MissingArgumentError:
        if not is_mention:
            raise


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_every_command_has_verbs_and_flags_that_there_are(page: Path) -> None:
    for text, is_mention in shell_texts(page):
        for words in commands(text):
            if words[:1] == ["VERB"]:
                continue  # whichever
            try:
                parse(words, is_mention)
            except cyclopts.CycloptsError as error:
                pytest.fail(f"{page.relative_to(ROOT)}: icefloe {shlex.join(words)}: {error}")


def test_a_flag_that_is_gone_is_told() -> None:
    [words] = commands("cd /srv && .venv/bin/icefloe score --model m.pb --gone 3 > /dev/null  # as ever")
    with pytest.raises(cyclopts.UnknownOptionError):
        parse(words, is_mention=True)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_every_flag_target_and_page_that_is_mentioned_is_there(page: Path) -> None:
    text = page.read_text()
    prose = BLOCK.sub("", text)
    known = {name for verb in VERBS for argument in app[verb].assemble_argument_collection() for name in argument.names}
    assert set(re.findall(r"`(--[a-z0-9-]+)", prose)) <= known | FLAGS_OF_OTHERS
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = "\n".join(block for language, block in blocks(page) if language in ("bash", "sh"))
    named = {*re.findall(r"`make ([a-z-]+)", prose), *re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE)}
    assert named <= targets
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []

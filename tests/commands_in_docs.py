"""Finds the commands that the documents name, and those that tests run.

In a block of code each line is a command. `# run by tests/FILE` or `# not run by tests: REASON` as a line of its own
holds for the lines below it, to the end of the block. In running text, what stands in backquotes may be a synopsis:
brackets mean what may be left out, `|` what may stand instead, capitals what is to be filled in.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"# (run by (?P<test>tests/\S+)|not run by tests: (?P<reason>\S.+))")
CALLED = re.compile(r"((?:sudo|docker compose exec \w+|[A-Z_]+=\S*) )?(?:\.venv/bin/)?(curie|make)(?= |$)")
SHELL = ("", "sh", "bash")
FILLED_IN = {"N": "3", "DAY": "2026-01-31", "PROCESS": "worker", "ROLE": "viewer", "HEX": "ab" * 32}
RUNNERS = {"curie", "run", "json", "said", "told"}  # functions of tests that take the words of a command
PROGRAM = {"curie", "appliance.cli.main", "*CURIE", "installed / 'curie'", "home"}  # what stands before them elsewhere


@dataclass(frozen=True)
class Command:
    """A command as a document gives it."""

    words: tuple[str, ...]  # without what stands before `curie` or `make`, or all of another program's
    place: str  # file:line
    in_block: bool
    test: str = ""  # where its mark says that it is run
    reason: str = ""  # why its mark says that it is not

    @property
    def program(self) -> str:
        """The first word."""
        return self.words[0]


def in_blocks(document: Path) -> Iterator[Command]:
    """Yield the commands in a document's blocks of code."""
    language, test, reason, begun = None, "", "", ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            language = None if language is not None else line.strip().removeprefix("```")
            test, reason, begun = "", "", ""
        elif language in SHELL:
            line = begun + line.strip()
            begun = line.removesuffix("\\") if line.endswith("\\") else ""
            if mark := MARK.fullmatch(line):
                test, reason = mark["test"] or "", mark["reason"] or ""
            elif not begun and is_command(line):
                for words in parts(line):
                    yield Command(program_of(words), f"{document.name}:{number}", True, test, reason)


def parts(line: str) -> list[list[str]]:
    """Return the words of each program that a line of the shell calls, without its comment."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=";|")
    reader.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in reader:
        if word in (";", "|", "&&"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def is_command(line: str) -> bool:
    """Return whether a line of a block is one: pictures of boxes and arrows are not."""
    return not re.search(r"[─▶│└]", line)


def in_text(document: Path) -> Iterator[Command]:
    """Yield the commands of `curie` and `make` in running text, a synopsis as each thing that it allows."""
    text = re.sub(
        r"^ *```.*?^ *```", lambda block: "\n" * block[0].count("\n"), document.read_text(), flags=re.M | re.S
    )
    for found in re.finditer(r"`((?:\.venv/bin/)?(?:curie|make) [^`]+)`", text):
        place = f"{document.name}:{text.count(chr(10), 0, found.start()) + 1}"
        written = found[1].replace("\\|", "|").replace("[", "").replace("]", "").replace("…", "")
        for words in alternatives(program_of(written.split())):
            yield Command(words, place, False)


def alternatives(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return each choice that `a | b`, or `a|b`, leaves."""
    if "|" in words:
        first = words.index("|") - 1
        return [(*words[:first], one) for one in words[first:] if one != "|"]
    choices = next((word for word in words if "|" in word), None)
    if choices is None:
        return [words]
    return [tuple(one if word == choices else word for word in words) for one in choices.split("|")]


def program_of(words: list[str]) -> tuple[str, ...]:
    """Return the words from `curie` or `make` on, where it is what is called; all of them for other programs."""
    found = CALLED.match(" ".join(words))
    rest = words[len(found[0].split()) :] if found else words
    return ((found[2],) if found else ()) + tuple(FILLED_IN.get(one, one) for one in rest)


def run_by_tests() -> set[tuple[str, ...]]:
    """Return the words that tests give to the command line: one, and two."""
    found: set[tuple[str, ...]] = set()
    for file in (*(ROOT / "tests").rglob("*.py"), ROOT / "bench" / "consortium.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call | ast.List | ast.Tuple):
                words = [as_word(one) for one in (node.args if isinstance(node, ast.Call) else node.elts)]
                runs = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in RUNNERS
                begins = [0] * runs + [place for place, word in enumerate(words, 1) if word in PROGRAM]
                found |= {tuple(words[place : place + size]) for place in begins for size in (1, 2)}
    return found


def as_word(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)

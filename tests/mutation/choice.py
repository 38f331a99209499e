"""Which tests run for a change of a line, and in which order.

Does not know: how tests are measured and run.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from tests.mutation.reach import bits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.mutation.reach import Measured

#: Starting the tests of another file, seconds.
FILE_S: Final = 0.3
#: So many tests of the file that mirrors the changed one count as one.
TOGETHER: Final = 8
#: A test takes at most this part of the time.
LONGEST: Final = 1 / 3


def lines_that_run(source: bytes, line: int) -> int:
    """Return the lines one of which runs when a test could notice a change of a line.

    Those of its statement; of the function, if the change is in a function's head; where a name is
    used, if the change is in the value of a module's name.

    Args:
        source: of the file.
        line: from 1.

    Returns:
        A number whose bit n is set for each line n.
    """
    tree = ast.parse(source)
    spans = [span for node in ast.walk(tree) if isinstance(node, ast.stmt) for span in _spans(node)]
    first, last, node = min(
        (span for span in spans if span[0] <= line <= span[1]), key=lambda span: span[1] - span[0]
    )
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return bits(range(first, (node.end_lineno or last) + 1))
    found = bits(range(first, last + 1))
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if node in tree.body:
        names = {each.id for each in targets if isinstance(each, ast.Name)}
        found |= bits(
            each.lineno
            for each in ast.walk(tree)
            if isinstance(each, ast.Name) and each.id in names
        )
    return found


def _spans(node: ast.stmt) -> list[tuple[int, int, ast.stmt]]:
    """Return first and last line of a statement, and of its head if it has a body."""
    last = node.end_lineno or node.lineno
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in decorators)])
    body: list[ast.AST] = getattr(node, "body", [])
    if not body or not isinstance(body[0], ast.stmt):
        return [(first, last, node)]
    return [(first, last, node), (first, max(first, body[0].lineno - 1), node)]


def choose(
    measured: Mapping[str, Mapping[str, Measured]], path: str, lines: int, seconds: float
) -> list[dict[str, float]]:
    """Return the tests to run, by the file that they are in, with the seconds that they take.

    First those that run one of the lines: the quickest of each file of tests, since those of one
    are alike, and `TOGETHER` of the file that mirrors the changed one, whose tests ask more of it;
    then the next ones of each, and so on. Then those that run something of the file, the
    quickest first; then others, those of the first files first. Of a file of tests they run one
    after the other; the file whose tests take the least time is first.

    Args:
        measured: tests by file of tests, nearest first.
        path: of the changed file.
        lines: of it: bit n is line n.
        seconds: that all tests take together, about.
    """
    ranked: list[tuple[int, int, float, str, str]] = []
    for number, (file, tests) in enumerate(measured.items()):
        at_once = TOGETHER if file.rpartition("/")[2] == f"test_{path.rpartition('/')[2]}" else 1
        count = 0  # of the file's tests that run one of the lines
        for name, test in sorted(tests.items(), key=lambda item: item[1].seconds):
            ran = test.lines.get(path, 0)
            rank = 0 if ran & lines else 1 if ran else 2
            ranked.append((rank, (count // at_once, 0, number)[rank], test.seconds, file, name))
            count += rank == 0
    chosen: dict[str, dict[str, float]] = {}
    first_rank: dict[str, int] = {}
    left_s = seconds
    for rank, _, test_s, file, name in sorted(ranked):
        cost_s = test_s + (0.0 if file in chosen else FILE_S)
        if cost_s < left_s and test_s < seconds * LONGEST:
            chosen.setdefault(file, {})[name] = test_s
            first_rank.setdefault(file, rank)
            left_s -= cost_s
    ordered = sorted(
        chosen.items(), key=lambda item: (first_rank[item[0]], sum(item[1].values()), item[0])
    )
    return [tests for _, tests in ordered]

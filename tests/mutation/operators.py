"""Mutants of a source file: small changes, each at one place.

Left out are docstrings and other texts, calls of loggers, annotations, `__all__`, decorators of
dataclasses, `strict` of `zip`, -1 of `reshape`, `grain` (how much a thread takes at a time) and
blocks under `TYPE_CHECKING` or `__name__`: nobody would call a change there a bug.

Does not know: tests, processes, other files.
"""

from __future__ import annotations

import ast
import bisect
import re
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, str]]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_OPPOSITES: Final = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
_LOGGERS: Final = {"_log", "log", "logger", "_logger", "logging", "warnings"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: of the file, relative to the repository, with slashes.
        function: qualified name of the function or class around the change; "": the module.
        line: of the change, from 1.
        start, end: bytes of the file that are replaced, UTF-8.
        replacement: what replaces them.
        before, after: the changed lines, without indentation, as the list of survivors has them.
        operator: the kind of change.
    """

    path: str
    function: str
    line: int
    start: int
    end: int
    replacement: str
    before: str
    after: str
    operator: str

    def apply(self, source: bytes) -> bytes:
        """Return the file's changed bytes."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def compiles(self, source: bytes) -> bool:
        """Return whether the changed file is Python at all."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of `a is 1`
                compile(self.apply(source), self.path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        return True


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return all mutants of a file, in the order of their places; a few do not compile.

    Args:
        path: of the file, relative to the repository, with slashes.
        source: its bytes, UTF-8.
    """
    return sorted(set(_Finder(path, source).run()), key=lambda each: (each.start, each.after))


class _Finder:
    def __init__(self, path: str, source: bytes) -> None:
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []

    def run(self) -> Iterator[Mutant]:
        yield from self._visit(ast.parse(self._source))

    # ---- the tree --------------------------------------------------------------------

    def _visit(self, node: ast.AST) -> Iterator[Mutant]:
        if _is_left_out(node):
            return
        is_scope = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_scope:
            self._scope.append(node.name)
        yield from self._changes(node)
        for child in _children(node):
            yield from self._visit(child)
        if is_scope:
            self._scope.pop()

    def _changes(self, node: ast.AST) -> Iterator[Mutant]:  # noqa: C901, PLR0912 - one line for each kind
        match node:
            case ast.Compare():
                yield from self._comparison(node)
            case ast.BinOp():
                yield from self._arithmetic(node.op, node.left, node.right)
            case ast.AugAssign():
                yield from self._arithmetic(node.op, node.target, node.value, "=")
                yield from self._deletion(node, node.target)
            case ast.BoolOp():
                yield from self._boolean(node)
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield self._replaced(node, self._text(node.operand), "unary")
            case ast.Constant():
                yield from self._constant(node)
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield self._replaced(node, "return None", "return")
            case ast.If() | ast.While() | ast.IfExp():
                if not isinstance(node.test, ast.Constant):
                    yield self._replaced(node.test, f"not ({self._text(node.test)})", "condition")
            case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
                yield self._replaced(node, "pass", "deletion")
            case ast.Assign(targets=[target]):
                yield from self._deletion(node, target)
            case ast.Break():
                yield self._replaced(node, "continue", "loop")
            case ast.Continue():
                yield self._replaced(node, "break", "loop")
            case ast.Call():
                yield from self._call(node)
            case _:
                pass

    # ---- kinds of change -------------------------------------------------------------

    def _comparison(self, node: ast.Compare) -> Iterator[Mutant]:
        operands = [node.left, *node.comparators]
        for (left, right), operator in zip(pairwise(operands), node.ops, strict=True):
            yield from self._between(left, right, *_COMPARISONS[type(operator)], "comparison")

    def _arithmetic(
        self, operator: ast.operator, left: ast.expr, right: ast.expr, suffix: str = ""
    ) -> Iterator[Mutant]:
        if type(operator) in _ARITHMETIC and not (_is_text(left) or _is_text(right)):
            old, new = _ARITHMETIC[type(operator)]
            yield from self._between(left, right, old + suffix, new + suffix, "arithmetic")

    def _boolean(self, node: ast.BoolOp) -> Iterator[Mutant]:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            yield from self._between(left, right, old, new, "boolean")

    def _constant(self, node: ast.Constant) -> Iterator[Mutant]:
        value = node.value
        if isinstance(value, bool):
            yield self._replaced(node, str(not value), "constant")
        elif isinstance(value, int | float):
            text = self._text(node)
            yield self._replaced(node, f"({text} + 1)", "constant")
            yield self._replaced(node, f"({text} - 1)", "constant")

    def _deletion(self, node: ast.stmt, target: ast.expr) -> Iterator[Mutant]:
        if isinstance(target, ast.Attribute | ast.Subscript):
            yield self._replaced(node, "pass", "deletion")

    def _call(self, node: ast.Call) -> Iterator[Mutant]:
        function = node.func
        name = function.id if isinstance(function, ast.Name) else ""
        if isinstance(function, ast.Attribute):
            name = function.attr
        if name in _OPPOSITES:
            start = self._end(function) - len(name)
            yield self._at(start, self._end(function), _OPPOSITES[name], "min, max")
            return  # the order of the arguments makes no difference
        for first, second in pairwise(node.args):
            both = isinstance(first, ast.Name) and isinstance(second, ast.Name)
            if both and first.id != second.id:
                middle = self._source[self._end(first) : self._start(second)].decode()
                text = f"{second.id}{middle}{first.id}"
                yield self._at(self._start(first), self._end(second), text, "arguments")

    # ---- places ----------------------------------------------------------------------

    def _between(
        self, left: ast.expr, right: ast.expr, old: str, new: str, operator: str
    ) -> Iterator[Mutant]:
        """Replace an operator, whose place the tree does not say."""
        start, end = self._end(left), self._start(right)
        gap = re.sub(rb"#[^\n]*", lambda found: b" " * len(found[0]), self._source[start:end])
        pattern = re.escape(old).replace(r"\ ", r"\s+").encode()
        found = re.search(pattern, gap)
        if found is not None:
            yield self._at(start + found.start(), start + found.end(), new, operator)

    def _replaced(self, node: ast.expr | ast.stmt, text: str, operator: str) -> Mutant:
        return self._at(self._start(node), self._end(node), text, operator)

    def _at(self, start: int, end: int, text: str, operator: str) -> Mutant:
        line = bisect.bisect_right(self._starts, start)
        first, last = self._starts[line - 1], self._starts[bisect.bisect_left(self._starts, end)]
        before = self._source[first:last]
        after = self._source[first:start] + text.encode() + self._source[end:last]
        return Mutant(
            self._path,
            ".".join(self._scope),
            line,
            start,
            end,
            text,
            one_line(before.decode()),
            one_line(after.decode()),
            operator,
        )

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        return self._source[self._start(node) : self._end(node)].decode()


def one_line(text: str) -> str:
    """Return lines of code as one, for comparing."""
    return " ".join(text.split())


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "type_comment"):
            continue
        if name == "keywords" and ast.unparse(node).startswith("zip("):
            continue  # `strict`: an assertion
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if name == "args" and ast.unparse(child) == "-1" and _is_reshape(node):
                continue  # any number below 0 is the size that is left
            if name != "decorator_list" or "dataclass" not in ast.unparse(child):
                yield child


def _is_reshape(node: ast.AST) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr == "reshape"


def _is_left_out(node: ast.AST) -> bool:  # noqa: PLR0911 - one line for each kind
    match node:
        case ast.If():
            condition = ast.unparse(node.test)
            return condition == "TYPE_CHECKING" or condition.startswith("__name__ ")
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            return name in _LOGGERS
        case ast.Expr(value=ast.Call() as call):
            return _is_left_out(call)
        case ast.keyword(arg="grain"):
            return True
        case ast.JoinedStr() | ast.Global() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Call(func=ast.Name(id="cast" | "TypeVar" | "NewType" | "ParamSpec")):
            return True
        case _:
            return False


def _is_text(node: ast.expr) -> bool:
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return constant or isinstance(node, ast.JoinedStr)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None

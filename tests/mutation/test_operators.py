from __future__ import annotations

import ast
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mutation.operators import mutants


def changes(code: str) -> set[tuple[str, str]]:
    """The changed lines of all mutants of some code."""
    found = mutants("package/module.py", dedent(code).encode())
    return {(each.before, each.after) for each in found}


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("x = a < b", "x = a <= b"),
        ("x = a >= b", "x = a > b"),
        ("x = a == b != c", "x = a != b != c"),
        ("x = a == b != c", "x = a == b == c"),
        ("x = a is not b", "x = a is b"),
        ("x = a not in b", "x = a in b"),
        ("x = a + b", "x = a - b"),
        ("x = a // b", "x = a / b"),
        ("x = a << b", "x = a >> b"),
        ("x = a and b or c", "x = a or b or c"),
        ("x = a and b or c", "x = a and b and c"),
        ("x = not a", "x = a"),
        ("x = -a", "x = a"),
        ("x = 7", "x = (7 + 1)"),
        ("x = 7", "x = (7 - 1)"),
        ("x = True", "x = False"),
        ("x = min(a, 3)", "x = max(a, 3)"),
        ("x = np.maximum(a, b)", "x = np.minimum(a, b)"),
        ("x = call(a, b, *c)", "x = call(b, a, *c)"),
        ("def f(a=5): pass", "def f(a=(5 + 1)): pass"),
        ("a.b = c", "pass"),
        ("a[b] = c", "pass"),
        ("a.b += c", "pass"),
        ("a.b += c", "a.b -= c"),
        ("call(a)", "pass"),
        ("x = a if b else c", "x = a if not (b) else c"),
        ("def f(): return a", "def f(): return None"),
        ("async def f(): await call(a)", "async def f(): pass"),
    ],
)
def test_each_kind_of_change_is_made(code: str, wanted: str) -> None:
    assert wanted in {after for _, after in changes(code)}


def test_the_order_of_the_arguments_of_a_maximum_is_kept() -> None:
    assert {after for _, after in changes("x = max(a, b)")} == {"x = min(a, b)"}


def test_loops_are_left_earlier_and_later() -> None:
    code = "for x in y:\n    if x:\n        break\n    continue\n"
    assert {("break", "continue"), ("continue", "break")} <= changes(code)


@pytest.mark.parametrize(
    "code",
    [
        '"""Text with 1 < 2."""',
        "__all__ = ['a']",
        "if TYPE_CHECKING:\n    x = 1 < 2\n",
        "if __name__ == '__main__':\n    main()\n",
        "_log.info('text', extra={'count': a + 1})",
        "def f(a: Literal[1]) -> Annotated[int, 5]: ...",
        "x: Annotated[int, 5]",
        "@dataclass(frozen=True)\nclass A:\n    pass\n",
        "x = 'a' + f'{b + 1}'",
        "import a",
        "x = a.reshape(-1, b)",
        "for a, b in zip(x.a, y.b, strict=True): ...",
        "x = parallel_for(loop, grain=64)",
    ],
)
def test_what_nobody_would_call_a_bug_is_left_alone(code: str) -> None:
    assert changes(code) == set()


def test_a_change_is_at_its_place_though_lines_have_umlauts_comments_and_brackets() -> None:
    code = "größe = ((länge)  # a < b\n    < (breite)) ; x = 'ß' if a else 1\n".encode()
    found = {each.apply(code).decode() for each in mutants("m.py", code)}
    assert "größe = ((länge)  # a < b\n    <= (breite)) ; x = 'ß' if a else 1\n" in found
    assert "größe = ((länge)  # a < b\n    < (breite)) ; x = 'ß' if not (a) else 1\n" in found


def test_a_change_knows_its_function_and_line() -> None:
    code = b"class A:\n    def f(self):\n        def g():\n            return 1\n"
    assert {(each.function, each.line) for each in mutants("m.py", code)} == {("A.f.g", 4)}


def test_code_that_is_no_python_any_more_is_recognized() -> None:
    code = b"match x:\n    case 1:\n        pass\n"
    assert not any(each.compiles(code) for each in mutants("m.py", code))


NAMES = st.sampled_from("abc")
EXPRESSIONS = st.recursive(
    NAMES | st.integers(0, 9).map(str),
    lambda inner: (
        st.builds(
            "({} {} {})".format,
            inner,
            st.sampled_from(["<", "+", "and", "is not", "**", "in"]),
            inner,
        )
        | st.builds("(not {})".format, inner)
        | st.builds("min({}, {})".format, inner, inner)
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_every_mutant_differs_from_the_source_and_parses(expression: str) -> None:
    code = f"x = ({expression})\n".encode()
    tree = ast.dump(ast.parse(code))
    for mutant in mutants("m.py", code):
        assert mutant.compiles(code)
        assert ast.dump(ast.parse(mutant.apply(code))) != tree

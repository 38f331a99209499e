from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.engines.trellis2.patches.sources import digest, find

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "def f(a, b=1):\n    return a + b\n"
#: The same digest in every version of Python.
DIGEST = "bd20e5f48773a9b2"


def function(folder: Path, source: str) -> Any:
    """The function of a module with that source."""
    file = folder / f"m{len(list(folder.iterdir()))}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.f


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b=1):\n    # why\n    return (a\n            +  b)\n",
        'def f(a, b=1):\n    """What it does."""\n    return a + b\n',
        "def f(a: int, b: int = 1) -> int:\n    return a + b\n",
    ],
)
def test_layout_comments_and_annotations_do_not_count(tmp_path: Path, source: str) -> None:
    assert digest(function(tmp_path, source)) == digest(function(tmp_path, PLAIN)) == DIGEST


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b=1):\n    return b + a\n",
        "def f(a, b=2):\n    return a + b\n",
        "def f(a, *, b=1):\n    return a + b\n",
        "def f(a, b=1):\n    'x'\n    'y'\n    return a + b\n",
        "def g(f):\n    return f\n@g\ndef f(a, b=1):\n    return a + b\n",
    ],
)
def test_any_change_of_the_code_counts(tmp_path: Path, source: str) -> None:
    assert digest(function(tmp_path, source)) != DIGEST


def test_a_function_without_source_and_a_missing_one_are_lookup_errors() -> None:
    with pytest.raises(LookupError, match="source"):
        digest(len)
    for path in ("no.such.module:f", "json:nothing", "json:JSONDecoder.nothing"):
        with pytest.raises(LookupError, match="does not exist"):
            find(path)


def test_methods_static_methods_and_properties_are_found(tmp_path: Path) -> None:
    assert find("json:JSONDecoder.decode").name == "decode"
    assert find("pathlib:PurePath.suffix").function.__name__ == "suffix"
    assert find("zipfile:ZipInfo.from_file").holder.__name__ == "ZipInfo"
    assert digest(find("pathlib:PurePath.suffix").function)
    del tmp_path

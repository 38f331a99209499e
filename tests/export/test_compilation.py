from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.interpreter import ROOT, run_python
from trellis2_server.export import compilation
from trellis2_server.export.compilation import COMMON, PARTS, Compilation
from trellis2_server.export.kernels import decimate
from trellis2_server.thread_priority import EXPORT_NICENESS

if TYPE_CHECKING:
    import subprocess

QUERY = (
    "from trellis2_server.export.compilation import PARTS, is_compiled\n"
    "print([part for part in PARTS if is_compiled(part)])"
)


@pytest.mark.costly
def test_the_parts_together_contain_all_loops_of_an_export() -> None:
    code = """
import importlib
from trellis2_server import export
from trellis2_server.export import compilation
names = [name for names in compilation.PARTS.values() for name in names]
modules = [importlib.import_module(f'trellis2_server.export.kernels.{name}') for name in names]
loops = {k for m in modules for k in vars(m).values() if hasattr(k, 'signatures')}
for part in compilation.PARTS:
    compilation._compile(part)
before = {k: len(k.signatures) for k in loops}
assert sum(before.values()) > 50
mesh = compilation._mesh()
small = export.prepare(mesh, decimation_target=6)
export.prepare(mesh, decimation_target=6, remesh_resolution=512)
export.prepare(mesh, decimation_target=6, remesh_resolution=512, solid=True, min_wall=0.1)
export.untextured_glb(small)
maps = {'occlusion': True, 'normal_map': True, 'lods': (4,)}
export.textured_glb(small, compilation._field(), original=mesh, texture_size=32, **maps)
print({k.__name__ for k in loops if len(k.signatures) > before[k]})
"""
    done = run_python(code)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.costly
def test_compiled_parts_are_known_without_compiling_them(tmp_path: Path) -> None:
    assert (
        run_python("from trellis2_server import export; export.warm_up(everything=True)").stderr
        == ""
    )
    assert run_python(QUERY).stdout.strip() == str(list(PARTS))
    assert run_python(QUERY, NUMBA_CACHE_DIR=str(tmp_path)).stdout.strip() == "[]"


@pytest.mark.costly
def test_a_source_that_was_only_touched_is_not_compiled_again() -> None:
    run_python("from trellis2_server import export; export.warm_up(everything=True)")
    source = Path(str(decimate.__file__))
    dates = source.stat()
    try:
        os.utime(source)
        # Whatever numba goes by: once it has compiled again, nothing is left to do.
        run_python("from trellis2_server import export; export.warm_up(everything=True)")
        assert run_python(QUERY).stdout.strip() == str(list(PARTS))
    finally:
        os.utime(source, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def test_a_loop_that_is_missing_among_those_that_call_it_is_compiled_again(tmp_path: Path) -> None:
    # As after a source was replaced by another version, and came back.
    (tmp_path / "loops.py").write_text(
        "from trellis2_server.export.jit import kernel\n"
        "@kernel\ndef inner(x): return x + 1\n"
        "@kernel\ndef outer(x): return inner(x)\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import loops
from trellis2_server.export import compilation
both = [loops.inner, loops.outer]
compilation._loops = lambda part: [both]
if "forget" in sys.argv:
    compilation._forget_other_versions("bake")
loops.outer(1)
print(*map(compilation._is_cached, both))
if "lose" in sys.argv:
    loops.inner._cache.flush()
"""
    outputs = [run_python(code, each).stdout.strip() for each in ("lose", "", "forget")]
    assert outputs == ["True True", "False True", "True True"]


class Started(NamedTuple):
    """A process that compiles a part."""

    part: str
    process: subprocess.Popen[bytes]
    niceness: int


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """The processes of a compilation for which nothing is compiled yet."""
    processes: list[Started] = []
    real = compilation._start

    def start(part: str, niceness: int = 0) -> subprocess.Popen[bytes] | None:
        process = real(part, niceness)
        if process is not None:
            processes.append(Started(part, process, niceness))
        return process

    monkeypatch.setattr(compilation, "_start", start)
    monkeypatch.setattr(compilation, "is_compiled", lambda _: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    return processes


@pytest.mark.costly
def test_other_processes_compile_a_share(
    started: list[Started],
) -> None:
    with Compilation() as work:
        work.finish()
    assert 1 <= len(started) <= 3
    assert [each.process.returncode for each in started] == [0] * len(started)
    assert {each.part for each in started} <= {*COMMON}


def test_processes_are_stopped_when_the_context_ends(
    started: list[Started],
) -> None:
    with Compilation(PARTS):
        pass
    assert all(each.process.returncode is not None for each in started)


def test_compilation_works_if_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "is_compiled", lambda _: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(sys, "executable", str(ROOT / "no such interpreter"))
    with Compilation() as work:
        work.finish()


@pytest.mark.costly
def test_what_only_some_requests_need_is_compiled_after_the_start(
    started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "is_compiled", lambda part: part in COMMON)
    thread = compilation.compile_rest.__wrapped__()
    thread.join(PATIENCE_S * 4)
    assert not thread.is_alive()
    assert [each.part for each in started] == [part for part in PARTS if part not in COMMON]
    assert [each.process.returncode for each in started] == [0] * len(started)
    assert {each.niceness for each in started} == {EXPORT_NICENESS}
    assert compilation.compile_rest() is compilation.compile_rest()

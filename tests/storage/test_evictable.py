from __future__ import annotations

from trellis2_server.storage.evictable import EvictableFiles
from trellis2_server.storage.store import Artifact


def test_the_least_recently_used_files_exceed_the_limit() -> None:
    files = EvictableFiles(250)
    a, b, c, d = (Artifact(name, "geometry", 100) for name in "abcd")
    for artifact in (a, b, c):
        files.add(artifact)
    files.touch(a)
    files.touch(d)  # not evictable
    assert files.size == 300
    assert files.pop_excess() == [b]
    assert files.pop_excess() == []
    files.remove(c)
    files.remove(c)
    assert files.size == 100


def test_a_file_over_the_limit_is_evicted_itself() -> None:
    files = EvictableFiles(50)
    files.add(Artifact("a", "geometry", 100))
    assert files.pop_excess() == [Artifact("a", "geometry", 100)]


def test_files_may_have_all_of_the_limit() -> None:
    files = EvictableFiles(200)
    for name in "ab":
        files.add(Artifact(name, "geometry", 100))
    assert files.pop_excess() == []
    files.add(Artifact("c", "geometry", 1))
    assert files.pop_excess() == [Artifact("a", "geometry", 100)]
    assert files.size == 101

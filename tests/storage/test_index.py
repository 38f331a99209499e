from __future__ import annotations

from trellis2_server.storage.index import ArchiveIndex
from trellis2_server.storage.store import Artifact, JobName


def test_files_are_found_until_they_are_removed() -> None:
    index = ArchiveIndex()
    shape, other = Artifact("a", "shape.glb", 10), Artifact("a", "shape.glb", 11)
    index.add_file(shape)
    assert index.find("a", "shape.glb") == shape
    assert index.has(shape)
    assert not index.has(other)
    assert not index.remove_file(other)
    assert (index.size, index.files("a")) == (10, [shape])
    assert index.remove_file(shape)
    assert not index.remove_file(shape)
    assert (index.size, index.files("a")) == (0, [])


def test_a_name_that_moves_to_another_job_stays_when_the_first_one_goes() -> None:
    index = ArchiveIndex()
    index.add_name(JobName("key", "k", "a"))
    index.add_name(JobName("key", "k", "b"))
    index.add_name(JobName("alias", "k", "a"))
    assert index.remove_names("a") == {("alias", "k")}
    assert index.names == {("key", "k"): JobName("key", "k", "b")}
    assert index.remove_names("a") == set()

from __future__ import annotations

from dataclasses import replace

from trellis2_server.storage.index import ArchiveIndex
from trellis2_server.storage.store import Artifact, JobName, SavedJob, StoreContents


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


def test_the_contents_of_a_store_are_added_but_for_names_that_have_moved() -> None:
    index = ArchiveIndex()
    shape = Artifact("a", "shape.glb", 10)
    index.add_name(JobName("key", "k", "new"))
    contents = StoreContents(
        [SavedJob("a", "record", {"shape.glb": shape}), SavedJob("b", "other")],
        [JobName("key", "k", "a"), JobName("alias", "k", "a")],
        ["a warning"],
    )
    assert index.add(contents) == replace(contents, names=[JobName("alias", "k", "a")])
    assert index.records == {"a": "record", "b": "other"}
    assert (index.size, index.find("a", "shape.glb")) == (10, shape)
    assert index.names["key", "k"].uid == "new"
    assert index.remove_names("a") == {("alias", "k")}


def test_the_size_is_that_of_all_files_of_all_jobs() -> None:
    index = ArchiveIndex()
    files = [Artifact(uid, name, 10) for uid in "ab" for name in ("x", "y")]
    for number, artifact in enumerate(files):
        index.add_file(artifact)
        assert index.size == 10 * (number + 1)
    assert index.files("a") == files[:2]
    assert index.remove_file(files[0])
    assert (index.size, index.files("a"), index.files("b")) == (30, files[1:2], files[2:])

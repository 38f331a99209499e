"""Which conversions are kept, and which go first; without converting anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.managers import in_a_loop
from trellis2_server.errors import StoreError
from trellis2_server.jobs import conversions
from trellis2_server.jobs.conversions import Conversions
from trellis2_server.parameters import PictureForm
from trellis2_server.settings import Settings
from trellis2_server.storage.content import BytesContent
from trellis2_server.storage.store import FILE_NAME, Artifact

if TYPE_CHECKING:
    from trellis2_server.jobs.export_calls import ExportWork
    from trellis2_server.storage.content import Content

SUFFIX = conversions._SUFFIX
MAX_RESULT_BYTES = 10 * 1024**2
MAX_DISK_BYTES = MAX_RESULT_BYTES // 10


class Shelf:
    """An archive of sizes."""

    def __init__(self, *, is_in_memory: bool = False) -> None:
        self.is_in_memory = is_in_memory
        self.stored: dict[tuple[str, str], Artifact] = {}
        self.discarded: list[Artifact] = []
        self.broken: set[str] = set()
        self.bulk: list[bool] = []

    @property
    def size(self) -> int:
        return sum(each.size for each in self.stored.values())

    def put(self, uid: str, name: str, size: int) -> Artifact:
        return self.stored.setdefault((uid, name), Artifact(uid, name, size))

    def find(self, uid: str, name: str) -> Artifact | None:
        return self.stored.get((uid, name))

    def files(self, uid: str) -> list[Artifact]:
        return [each for each in self.stored.values() if each.uid == uid]

    def discard(self, artifact: Artifact) -> None:
        self.discarded.append(artifact)
        self.stored.pop((artifact.uid, artifact.name), None)

    def store_file(self, uid: str, name: str, content: bytes, *, is_bulk: bool) -> Artifact:
        self.bulk.append(is_bulk)
        return self.put(uid, name, len(content))

    async def open_file(self, artifact: Artifact) -> Content:
        if artifact.name in self.broken:
            raise StoreError("damaged")
        return BytesContent(b"stored")


class Calls:
    """Runs the work at once: a conversion has the size that the test says."""

    def __init__(self) -> None:
        self.size = 1
        self.runs: list[tuple[Any, str, bool]] = []

    async def run(self, work: ExportWork, client: str = "", *, may_refuse: bool = True) -> Content:
        self.runs.append((work.key, client, may_refuse))
        return work.finish(bytes(self.size))


class Parts:
    def __init__(self, shelf: Shelf | None = None, **worker: Any) -> None:
        self.shelf, self.calls = shelf or Shelf(), Calls()
        # Smaller than an operator may set it: sizes stay readable.
        limits = Settings().worker.model_copy(
            update={"max_result_bytes": MAX_RESULT_BYTES, **worker}
        )
        archive: Any = self.shelf
        calls: Any = self.calls
        executor: Any = type("Executor", (), {"convert": staticmethod(lambda *_: b"")})
        self.conversions = Conversions(archive, calls, executor, limits)

    def model(self, uid: str, size: int = 1) -> Artifact:
        return self.shelf.put(uid, "textured.glb", size)

    async def convert(self, uid: str, size: int, file_type: Any = "obj") -> None:
        self.calls.size = size
        model = self.shelf.find(uid, "textured.glb") or self.model(uid)
        await self.conversions.convert(
            model, BytesContent(b""), file_type, "client", may_refuse=True
        )

    @property
    def kept(self) -> list[str]:
        return sorted(uid for uid, name in self.shelf.stored if "-" in name)


@pytest.mark.parametrize(
    ("is_in_memory", "expected"), [(True, 8 * 1024**2 // 4), (False, MAX_DISK_BYTES)]
)
def test_conversions_get_a_part_of_the_room(*, is_in_memory: bool, expected: int) -> None:
    parts = Parts(Shelf(is_in_memory=is_in_memory), max_kept_bytes=8 * 1024**2)
    assert parts.conversions.max_bytes == expected


@in_a_loop
async def test_a_conversion_is_made_once_and_kept_under_a_name_of_this_version() -> None:
    parts = Parts()
    model = parts.model("a")
    made = await parts.conversions.convert(
        model, BytesContent(b""), "obj", "client", may_refuse=False
    )
    assert await made.read() == b"\0"
    assert parts.calls.runs == [((model, "obj"), "client", False)]
    found = parts.conversions.find(model, "obj")
    assert found == Artifact("a", f"textured.obj{SUFFIX}", 1)
    assert parts.conversions.find(model, "ply") is None
    again = await parts.conversions.convert(
        model, BytesContent(b""), "obj", "client", may_refuse=False
    )
    assert await again.read() == b"stored"
    assert len(parts.calls.runs) == 1
    assert parts.shelf.bulk == [True]


@in_a_loop
async def test_a_damaged_conversion_is_made_again() -> None:
    parts = Parts()
    await parts.convert("a", 5)
    parts.shelf.broken.add(f"textured.obj{SUFFIX}")
    await parts.convert("a", 7)
    assert len(parts.calls.runs) == 2
    assert [each.size for each in parts.shelf.discarded] == [5]
    assert parts.shelf.stored["a", f"textured.obj{SUFFIX}"].size == 7


@in_a_loop
async def test_the_least_recently_used_ones_go_when_the_limit_is_exceeded() -> None:
    parts = Parts()
    for uid in "abc":
        await parts.convert(uid, MAX_DISK_BYTES // 3)
    assert parts.kept == ["a", "b", "c"]
    await parts.convert("a", 0)  # used
    await parts.convert("d", MAX_DISK_BYTES // 3)
    assert parts.kept == ["a", "c", "d"]
    await parts.convert("e", MAX_DISK_BYTES - MAX_DISK_BYTES // 3)
    assert parts.kept == ["d", "e"]


@pytest.mark.parametrize(("size", "is_kept"), [(MAX_DISK_BYTES, True), (MAX_DISK_BYTES + 1, False)])
@in_a_loop
async def test_one_as_large_as_the_limit_is_kept_and_a_larger_one_drops_nothing(
    size: int, *, is_kept: bool
) -> None:
    parts = Parts()
    await parts.convert("a", 1)
    await parts.convert("b", size)
    assert parts.kept == (["b"] if is_kept else ["a"])


@in_a_loop
async def test_there_must_be_room_beside_the_jobs_too() -> None:
    parts = Parts()
    parts.model("large", MAX_RESULT_BYTES - 102)
    for uid in "abc":
        parts.model(uid, 0)
    await parts.convert("a", 50)
    await parts.convert("b", 50)
    assert parts.kept == ["a", "b"]
    await parts.convert("c", 3)  # a byte too many
    assert parts.kept == ["b", "c"]
    parts.shelf.put("large", "shape.glb", 3)
    await parts.convert("a", 100)  # does not fit, whatever goes
    assert "a" not in parts.kept


@in_a_loop
async def test_the_conversion_of_a_model_that_is_gone_is_delivered_and_not_kept() -> None:
    parts = Parts()
    model = Artifact("gone", "textured.glb", 1)
    made = await parts.conversions.convert(
        model, BytesContent(b""), "obj", "client", may_refuse=True
    )
    assert await made.read() == b"\0"
    assert parts.kept == []
    other = await parts.conversions.convert_bytes(BytesContent(b""), "ply", "client")
    assert await other.read() == b"\0"
    assert parts.calls.runs[-1] == (None, "client", False)


@in_a_loop
async def test_room_is_made_as_much_as_is_missing() -> None:
    parts = Parts()
    for uid in "abcd":
        await parts.convert(uid, 10)
    parts.conversions.make_room(0)
    assert parts.kept == ["a", "b", "c", "d"]
    parts.conversions.make_room(11)
    assert parts.kept == ["c", "d"]
    parts.shelf.discard(Artifact("c", f"textured.obj{SUFFIX}", 10))  # with its job
    parts.conversions.make_room(1)
    assert parts.kept == []
    parts.conversions.make_room(10**9)


@in_a_loop
async def test_after_a_restart_conversions_of_other_versions_go_and_the_limit_holds() -> None:
    shelf = Shelf()
    for uid in "abc":
        shelf.put(uid, "textured.glb", 10)
        shelf.put(uid, f"textured.obj{SUFFIX}", MAX_DISK_BYTES // 2)
    shelf.put("a", "textured.ply-0_0_1", 10)
    shelf.put("unknown", f"textured.obj{SUFFIX}", 10)
    parts = Parts(shelf)
    parts.conversions.restore(["a", "b", "c"])
    names = [(each.uid, each.name) for each in shelf.discarded]
    assert names == [("a", "textured.ply-0_0_1"), ("a", f"textured.obj{SUFFIX}")]
    assert all(shelf.find(uid, "textured.glb") for uid in "abc")
    await asyncio.sleep(0)
    await parts.convert("d", MAX_DISK_BYTES // 2)
    assert parts.kept == ["c", "d", "unknown"]


@in_a_loop
async def test_pictures_are_kept_by_what_they_show_under_names_that_stores_accept() -> None:
    parts = Parts()
    model = parts.model("a")
    forms = [
        PictureForm("thumbnail", 64),
        PictureForm("thumbnail", 65),
        PictureForm("thumbnail", 64, "back"),
        PictureForm("turntable", 64),
    ]
    for form in forms:
        await parts.convert("a", 1, form)
    found = [parts.conversions.find(model, form) for form in forms]
    names = {artifact.name for artifact in found if artifact is not None}
    assert len(names) == len(forms)
    assert all(FILE_NAME.fullmatch(name) for name in names)
    again = Parts(parts.shelf)  # after a restart
    again.conversions.restore(["a"])
    assert [again.conversions.find(model, form) for form in forms] == found

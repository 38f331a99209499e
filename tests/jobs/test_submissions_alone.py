"""Submitting and matching, without threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.managers import in_a_loop, options
from tests.support.requests_alone import ME, SHAPE, TEXTURED, Requests, cutout
from trellis2_server.digests import md5
from trellis2_server.errors import (
    EngineError,
)
from trellis2_server.jobs.job import Caller, image_hash_of
from trellis2_server.jobs.matching import upload_key
from trellis2_server.jobs.uploads import Upload


@pytest.mark.parametrize(("texture", "wants"), [(None, True), (True, True), (False, False)])
@in_a_loop
async def test_a_new_job_has_what_its_request_says(
    texture: bool | None,  # noqa: FBT001 - a parameter of the test
    *,
    wants: bool,
) -> None:
    front = Requests()
    front.parts.clock.now = 5.0
    job = await front.submit(texture=texture, mesh=b"mesh")
    active = front.active(job)
    assert (job.engine, job.owner, job.created_at, job.options) == (
        "engine",
        "owner",
        5.0,
        options(1),
    )
    assert (active.wants_texture, active.mesh, active.deadline) == (wants, b"mesh", 5.0)
    assert active.upload == Upload("owner", md5(b"picture"), options(1).remove_background)
    assert active.last_requested_at == 5.0
    assert front.started == [b"picture"]
    assert front.registry.clients(job.uid) == {"client"}
    assert front.checked == [("open",), ("job", 11, "client")]
    assert (front.wakes, front.textures) == (0, [])


@in_a_loop
async def test_the_same_request_gets_the_same_job_and_another_one_does_not() -> None:
    front = Requests()
    first = await front.submit(texture=False)
    front.parts.clock.now = 9.0
    assert (await front.submissions.submit(
        b"picture", options(1), Caller("owner", "second"), texture=False
    )).uid == first.uid  # fmt: skip
    assert front.registry.clients(first.uid) == {"client", "second"}
    assert (front.wakes, front.heard.matches) == (1, ["upload"])
    assert front.active(first).last_requested_at == 9.0
    others = [
        await front.submit(b"other", texture=False), await front.submit(seed=2, texture=False),
        await front.submissions.submit(
            b"picture", options(1), Caller("someone", "client"), texture=False
        ),
    ]  # fmt: skip
    assert len({first.uid, *(job.uid for job in others)}) == 4
    random = [await front.submit(seed=-1, texture=False) for _ in range(2)]
    assert random[0].uid != random[1].uid
    assert front.checked.count(("open",)) == 7


@in_a_loop
async def test_a_texture_that_was_declined_is_begun_when_somebody_asks_for_it() -> None:
    front = Requests()
    job = await front.submit(texture=False)
    await front.submit(texture=False)
    assert front.textures == []
    await front.submit(texture=None)
    assert front.textures == [job.uid]
    await front.submit(texture=True)
    assert front.textures == [job.uid]


# ---- matching ------------------------------------------------------------------------------------


@in_a_loop
async def test_cutouts_that_differ_in_colour_or_in_alpha_alone_are_different_jobs() -> None:
    """`image_hash` is that of what the model sees, on black: of black, alpha is not seen in it."""
    front = Requests()
    plain, thin, other = cutout(0), cutout(0, alpha=200), cutout(9)
    assert plain.image_hash == thin.image_hash != other.image_hash
    jobs = [await front.submit(name) for name in (b"a", b"b", b"c", b"d")]
    found = [
        front.matcher.find_by_cutout(front.active(job), each)
        for job, each in zip(jobs, (plain, thin, other, cutout(0)), strict=True)
    ]
    assert found[:3] == [None, None, None]
    assert found[3] is not None
    assert found[3].uid == jobs[0].uid
    assert front.uploads.image_hash(front.active(jobs[1]).upload) == thin.image_hash


@in_a_loop
async def test_a_job_matches_only_while_it_has_or_will_have_what_is_asked_for() -> None:
    front = Requests()
    job = await front.submit(texture=False)
    upload = front.active(job).upload

    def finds(*, texture: bool) -> bool:
        return front.matcher.find_by_upload(upload, options(1), texture=texture) is not None

    assert (finds(texture=False), finds(texture=True)) == (True, True)
    active = front.active(job)
    active.texture_error = EngineError("no texture")
    assert (finds(texture=False), finds(texture=True)) == (True, False)
    active.texture_error = None
    front.change(job, shape_glb=SHAPE)
    assert (finds(texture=False), finds(texture=True)) == (True, True)
    front.parts.active_jobs.discard(job.uid)
    assert (finds(texture=False), finds(texture=True)) == (True, False)
    front.registry.put(replace(front.registry[job.uid], textured_glb=TEXTURED))
    assert (finds(texture=False), finds(texture=True)) == (True, True)
    front.registry.put(replace(front.registry[job.uid], shape_glb=None))
    assert (finds(texture=False), finds(texture=True)) == (False, False)
    front.registry.put(
        replace(front.registry[job.uid], shape_glb=SHAPE, shape_error=EngineError("no shape"))
    )
    assert (finds(texture=False), finds(texture=True)) == (False, False)


@in_a_loop
async def test_a_mesh_that_a_job_made_of_that_picture_is_that_job() -> None:
    front = Requests()
    job = await front.submit()
    upload = front.active(job).upload
    front.uploads.remember(upload, cutout(9))
    front.change(job, image_hash=cutout(9).image_hash, shape_glb=SHAPE, shape_md5="c" * 32)
    asked = replace(options(5), mesh="c" * 32)

    def found(asked: Any, upload: Upload = upload) -> str | None:
        known = front.matcher.find_by_upload(upload, asked, texture=True)
        return known and known.uid

    assert found(asked) == job.uid
    assert found(replace(asked, up_axis="y")) == job.uid
    assert found(replace(asked, geo_rotation=90.0)) is None
    assert found(replace(asked, up_axis="z")) is None
    assert found(replace(asked, uv="keep")) is None
    assert found(replace(asked, mesh="d" * 32)) is None
    assert found(replace(asked, mesh=None)) is None
    assert found(asked, upload._replace(digest="other")) is None
    assert found(asked, upload._replace(owner="other")) is None
    assert upload_key(upload, options(-1)) is None


@in_a_loop
async def test_the_untextured_file_of_a_job_with_a_mesh_is_that_job_too() -> None:
    front = Requests()
    job = await front.submit(mesh=b"mesh")
    given = replace(front.registry[job.uid].options, mesh="a" * 32)
    upload, image_hash = front.active(job).upload, cutout(9).image_hash
    front.uploads.remember(upload, cutout(9))
    asked = replace(options(5), mesh="c" * 32)
    front.change(job, options=given, shape_glb=SHAPE, shape_md5="c" * 32)
    for stored, is_found in (
        (image_hash_of(image_hash, given), True),
        (image_hash, True),  # of an earlier version
        (image_hash_of(image_hash, asked), False),
    ):
        front.registry.put(replace(front.registry[job.uid], image_hash=stored))
        known = front.matcher.find_by_upload(upload, asked, texture=True)
        assert (known is not None) is is_found


@in_a_loop
async def test_a_picture_is_not_looked_up_in_an_active_job_with_a_mesh() -> None:
    front = Requests()
    given = replace(options(1), mesh="a" * 32)
    job = await front.submissions.submit(b"picture", given, ME, texture=True, mesh=b"mesh")
    upload = front.active(job).upload
    assert front.lookups.known_name(upload) is None
    own = await front.submit()
    await front.submissions.submit(b"picture", replace(given, seed=2), ME, texture=True)
    assert front.lookups.known_name(upload) == own.uid


@in_a_loop
async def test_a_merged_job_follows_the_known_one() -> None:
    front = Requests()
    known, merged, late = [await front.submit(name) for name in (b"a", b"b", b"c")]
    active = front.active(merged)
    with front.parts.active_jobs.subscriptions.subscribe(merged) as following:
        front.parts.clock.now = 3.0
        front.matcher.merge(active, known)
        front.matcher.follow(active, known)
        assert following.job.uid == known.uid
    assert front.registry[merged.uid].uid == known.uid
    assert merged.uid not in front.parts.active_jobs
    assert front.active(known).last_requested_at == 3.0
    assert (await front.submit(b"b")).uid == known.uid
    assert not active.shape_done.done()
    done = front.change(known, shape_glb=SHAPE)
    front.active(known).shape_done.set_result(done)
    assert await active.shape_done is done
    front.parts.active_jobs.discard(known.uid)
    third = front.active(late)
    front.matcher.merge(third, done)
    front.matcher.follow(third, done)
    assert third.shape_done.result() is done
    assert front.heard.matches == ["picture", "upload", "picture"]

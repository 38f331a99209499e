"""Several pictures of one object, from the library and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.cli.conftest import no_first_contact, run  # noqa: F401 - fixtures
from tests.support.server import SMALL, picture
from trellis2_server.client import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Server

    Run = Callable[..., tuple[int, str, str]]
    Ask = Callable[..., Any]


def files_of(server: Server, uid: str) -> list[str]:
    return list(server.client.get(f"/jobs/{uid}").json()["files"])


def test_the_library_sends_a_list_or_sides(ask: Ask, server: Server, tmp_path: Path) -> None:
    back = tmp_path / "back.png"
    back.write_bytes(picture(42))
    uids = [
        ask(server, "generate", pictures, texture=False, **SMALL).uid
        for pictures in (
            [picture(41), back],
            {"front": picture(41), "back": str(back)},
            {"back": back, "front": picture(41)},
            (picture(41),),
            picture(41),
        )
    ]
    assert uids[1] == uids[2]
    assert uids[3] == uids[4]
    assert len(set(uids)) == 3
    for uid, count in zip(uids, (2, 2, 2, 0, 0), strict=True):
        assert sum(name.startswith("input-") for name in files_of(server, uid)) == count


def test_the_library_refuses_what_is_no_set_of_pictures(ask: Ask) -> None:
    for pictures, message in (
        ([], "0 pictures: must be 1 to 8"),
        ([b"x"] * 9, "9 pictures: must be 1 to 8"),
        ({"top": b"x"}, "top: no side of an object; must be front, left, back, right"),
    ):
        with pytest.raises(UsageError, match=f"^{message}$"):
            ask("http://127.0.0.1:9", "generate", pictures)


def test_the_command_makes_one_model_of_all_views(run: Run, server: Server) -> None:  # noqa: F811
    code, output, _ = run("--json", "--shape-only", "--views", "back=two.png", "front=one.png")
    assert code == 0
    printed = json.loads(output)
    assert sorted(each.name for each in Path().glob("*.glb")) == ["one.glb"]
    assert files_of(server, printed["uid"])[:3] == ["input.png", "input-1.png", "input-2.png"]
    code, output, _ = run("--json", "--shape-only", "--views", "one.png", "two.png")
    assert code == 0
    assert json.loads(output)["uid"] != printed["uid"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--views", "front=none.png"), "none.png: not a readable file"),
        (("--views", "back=one.png"), "--views: needs front=PICTURE"),
        (("--views", "front=one.png", "two.png"), "--views two.png: must be SIDE=PICTURE; sides"),
        (("--views", "front=one.png", "top=two.png"), "--views top=two.png: must be SIDE=PICTURE"),
        (("--views", "front=one.png", "front=two.png"), "--views front: there are two pictures"),
        (("--views", *["one.png"] * 9), "--views: 9 pictures; at most 8 are allowed"),
        (("two.png", "--views", "front=one.png"), "--views: cannot be combined with other pict"),
    ],
)  # fmt: skip
def test_views_that_cannot_be_meant_exit_with_2(
    run: Run,  # noqa: F811
    arguments: tuple[str, ...],
    message: str,
) -> None:
    code, output, error = run(*arguments)
    assert (code, output) == (2, "")
    assert message in error

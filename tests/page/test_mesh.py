"""A mesh of the user's own, which a picture textures, in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.page import SMALL, TOY
from tests.support.server import serving, settings, until
from trellis2_server.engines.preview import PreviewEngine

if TYPE_CHECKING:
    from tests.support.page import OpenTab
    from tests.support.server import Server

#: A tetrahedron whose faces have their own places in the texture.
OBJ = (
    b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
    b"vt 0 0\nvt .4 0\nvt 0 .4\nvt .6 0\nvt 1 0\nvt .6 .4\nvt 0 .6\nvt .4 .6\nvt 0 1\n"
    b"vt .6 .6\nvt 1 .6\nvt .6 1\n"
    b"f 1/1 3/2 2/3\nf 1/4 2/5 4/6\nf 1/7 4/8 3/9\nf 2/10 3/11 4/12\n"
)


def parameters(server: Server, uid: str) -> dict[str, Any]:
    """Wait until a job has its textured model; return its parameters."""

    def job() -> dict[str, Any]:
        return server.client.get(f"/jobs/{uid}").json()

    until(lambda: job()["texture_ready"], "the job ends")
    return job()["parameters"]


@pytest.mark.costly
def test_a_mesh_is_textured_with_its_axis_and_its_texture_coordinates(tab: OpenTab) -> None:
    with serving(PreviewEngine(), settings(**SMALL)) as server:
        server.wait_until_loaded()
        one = tab(server.url)
        page = one.page
        page.click("#mesh summary")
        axis, layout = page.locator("#mesh-up_axis"), page.locator("#mesh-uv")
        assert not axis.is_visible()
        assert not layout.is_visible()
        mesh: Any = {"name": "part.obj", "mimeType": "", "buffer": OBJ}
        page.set_input_files("#mesh input[type=file]", mesh)
        one.see("#mesh button", "part.obj")
        axis.select_option("z")
        layout.select_option("keep")
        assert one.violations() == []
        one.drop(TOY)
        one.see("#job-status", "Done")
        first = page.url.split("#")[1]
        assert parameters(server, first).items() >= {"up_axis": "z", "uv": "keep"}.items()
        command = page.text_content("#command") or ""
        assert {"-F mesh=@part.obj", "-F uv=keep"} <= set(command.split(" \\\n  "))
        # Without a mesh, the fields are gone; a job is sent again with what it had.
        page.get_by_label("Remove the mesh").click()
        assert not axis.is_visible()
        page.click("#new-seed")
        until(lambda: page.evaluate("location.hash") not in {"", f"#{first}"}, "another job opens")
        again = parameters(server, page.url.split("#")[1])
        assert again.items() >= {"up_axis": "z", "uv": "keep"}.items()
        # A dropped mesh is chosen; its fields start with the server's defaults.
        one.drop(("other.obj", OBJ))
        one.see("#mesh button", "other.obj")
        assert axis.input_value() == layout.input_value() == ""
        # Another tab does not have the mesh.
        other = tab(f"{server.url}/#{first}", beside=one)
        other.see("#job-status", "Done")
        assert not other.page.locator("#new-seed").is_visible()

"""The attacks of `hostile.py`: one row each, with the results that are allowed.

Does not know: how a row is run and judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from bench import hostile_clients as clients
from bench import hostile_requests as requests
from bench.hostile_animations import ANIMATIONS
from bench.hostile_heic import HEICS
from bench.hostile_meshes import MESHES
from bench.hostile_pictures import PICTURES
from bench.hostile_witness import small_picture
from tests.support.hostile_meshes import COSTLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.hostile_send import Attacker

    Attack = Callable[[Attacker], Iterator[None]]

#: Refused as the client's fault.
REFUSED: Final = frozenset({400, 413})
SERVED: Final = frozenset({200})
#: Refused for now, by a limit of the client or of the server.
LIMITED: Final = frozenset({429, 503})
#: Closed without a reply, which is right for what is no HTTP.
CLOSED: Final = frozenset({0})

#: Small models, so that the row takes seconds. Limits are the defaults but for those that a short
#: test reaches; `hostile.py` leaves out what the server under test does not have.
SECTIONS: Final[dict[str, dict[str, Any]]] = {
    "model": {"engine": "preview", "background": "none"},
    "export": {"glb_texture_size": 256, "glb_decimation_target": 2000},
    "server": {"log_level": "error", "transfer_timeout_seconds": 3},
    "worker": {
        "job_max_age_seconds": 10,
        "job_cleanup_interval_seconds": 1,
        "max_kept_bytes": 2**24,
        "stage_timeout_seconds": 25,
        "decode_timeout_seconds": 10,
        "decode_memory_bytes": 2**29,
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """One attack.

    Attributes:
        attack: what is done.
        allowed: statuses that its requests may get; 0 is a closed connection.
        required: statuses of which one must be there.
        why: why not each of them is refused.
        tolerated: words of errors that the good client may get.
        has_jobs: whether it is made of ordinary jobs: memory grows from what jobs take.
        sections: settings other than `SECTIONS`.
        witness: what the good client asks for.
    """

    attack: Attack
    allowed: frozenset[int] = REFUSED
    required: frozenset[int] = frozenset()
    why: str = ""
    tolerated: tuple[str, ...] = ()
    has_jobs: bool = False
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    witness: Literal["good", "texture"] = "good"

    @property
    def configuration(self) -> dict[str, dict[str, Any]]:
        """The settings of its server."""
        names = SECTIONS.keys() | self.sections.keys()
        return {name: {**SECTIONS.get(name, {}), **self.sections.get(name, {})} for name in names}


def _picture(make: Callable[[], bytes]) -> Attack:
    def attack(attacker: Attacker) -> Iterator[None]:
        content = make()
        yield
        attacker.form(image=content, texture="false", seed=1)

    return attack


def _mesh(make: Callable[[], bytes]) -> Attack:
    def attack(attacker: Attacker) -> Iterator[None]:
        content = make()
        yield
        attacker.form(image=small_picture(), mesh=content, texture="true", seed=1)

    return attack


_BOTH: Final = SERVED | REFUSED
#: Files that are invalid, or of which nothing is left to show. All others are valid, if costly:
#: they may be served as well as refused.
_INVALID: Final = {
    "jpeg-empty-scans", "tiff-tiny-strips", "tiff-directory-loop", "png-text-bombs",
    "gif-huge-frame", "webp-wrong-sizes", "avif-cut",
    "heic-circle", "heic-nested-grids", "heic-wrong-sizes", "heic-cut",
    "obj-without-area", "obj-points", "obj-thin", "stl-not-finite", "stl-text",
    "ply-long-text-face", "glb-amplified", "glb-sparse", "glb-doubling-tree", "glb-circle",
    "glb-many-nodes",
}  # fmt: skip


#: Files for the tests of the readers that have no counterpart in `hostile_meshes`.
_OTHER_MESHES: Final = {
    name.replace("_", "-"): COSTLY[name]
    for name in (
        "obj_of_backslashes_and_returns", "obj_of_empty_lines", "obj_of_a_face_of_long_words",
        "obj_of_a_long_index", "obj_of_a_long_vertex", "obj_of_faces_without_corners",
        "obj_of_vertices", "obj_of_objects", "obj_of_long_names", "obj_of_apart_objects",
        "obj_of_long_faces", "ply_of_byte_faces", "glb_of_one_strip", "glb_of_shared_vertices",
        "glb_of_dense_faces",
        "ply_of_one_long_face_among_others", "ply_of_empty_lists", "ply_of_many_vertex_elements",
        "stl_text_of_blank_lines", "stl_text_of_vertices", "glb_of_small_lists",
        "glb_of_objects_with_keys", "glb_of_long_numbers", "glb_of_a_long_name",
        "glb_of_many_children", "glb_of_growing_nodes", "glb_of_many_primitives",
        "glb_of_one_byte_vertices", "glb_of_lines", "glb_of_empty_chunks", "far_vertex",
    )
}  # fmt: skip


def _file_rows(
    make_attack: Callable[[Callable[[], bytes]], Attack], files: dict[str, Callable[[], bytes]]
) -> dict[str, Row]:
    return {
        name: Row(make_attack(make))
        if name in _INVALID
        else Row(make_attack(make), _BOTH, why="valid, if costly")
        for name, make in files.items()
    }


#: The few bytes that all bodies may take together, where that is what is tested.
_SMALL_BUDGET: Final = {"server": {"max_inflight_bytes": 32_000_000, "max_body_bytes": 8_000_000}}
_LIVES_LONG: Final = {"worker": {"job_max_age_seconds": 60}}

ROWS: Final[dict[str, Row]] = {
    **_file_rows(_picture, {**PICTURES, **ANIMATIONS, **HEICS}),
    **_file_rows(_mesh, MESHES),
    **_file_rows(_mesh, _OTHER_MESHES),
    # forms and JSON
    "punycode-field": Row(requests.punycode_field),
    "odd-charsets": Row(requests.odd_charsets),
    "many-parts": Row(requests.many_parts),
    "part-header-flood": Row(requests.part_header_flood, REFUSED | {431}),
    "near-boundaries": Row(requests.near_boundaries),
    "json-nested": Row(requests.json_nested),
    "json-long-numbers": Row(requests.json_long_numbers),
    "json-escaped-quotes": Row(requests.json_escaped_quotes),
    "json-many-keys": Row(requests.json_many_keys),
    "base64-odd": Row(requests.base64_odd),
    "query-flood": Row(requests.query_flood, _BOTH | {414, 431}, why="unknown fields are ignored"),
    # HTTP
    "header-flood": Row(requests.header_flood, SERVED | {400, 431}, why="under the limit"),
    "pipelined": Row(requests.pipelined, SERVED | {400}, why="valid but for the last"),
    "two-lengths": Row(requests.two_lengths, frozenset({400, 413, 501})),
    "chunks-of-one-byte": Row(requests.chunks_of_one_byte),
    "slow-heads": Row(requests.slow_heads, CLOSED | {400, 408}, why="no request was complete"),
    "slow-bodies": Row(requests.slow_bodies, CLOSED | LIMITED | {400, 408}, why="limits"),
    "slow-chunks": Row(requests.slow_chunks, CLOSED | LIMITED | {400, 408}, why="limits"),
    "silent-bodies": Row(
        requests.silent_bodies,
        LIMITED | {400, 408},
        LIMITED,
        why="more bodies than fit into the budget",
        sections=_SMALL_BUDGET,
    ),
    "slow-readers": Row(
        clients.slow_readers,
        SERVED,
        why="what it asks at the end is an ordinary request",
        sections={"worker": {"job_max_age_seconds": 60, "result_dir": "results"}},
    ),
    "many-connections": Row(
        requests.many_connections, SERVED | LIMITED | CLOSED, why="limit of connections"
    ),
    "connection-storm": Row(requests.connection_storm, SERVED | LIMITED | CLOSED, why="ordinary"),
    "odd-methods": Row(
        requests.odd_methods, SERVED | {204, 400, 401, 404, 405, 501}, why="OPTIONS is answered"
    ),
    "forwarded-addresses": Row(
        requests.forwarded_addresses,
        frozenset({400, 429}),
        frozenset({429}),
        why="the limit of the rate holds",
        sections={"server": {"rate_per_minute": 1200}},
    ),
    # jobs
    "conversion-loops": Row(
        clients.conversion_loops, SERVED | LIMITED, why="conversions of one's own model"
    ),
    "conversion-heads": Row(clients.conversion_heads, SERVED | LIMITED, why="HEAD of a file"),
    "conversions-of-many": Row(
        clients.conversions_of_many,
        SERVED | LIMITED,
        why="conversions of one's own models",
        sections=_LIVES_LONG,
    ),
    "export-loops": Row(
        clients.export_loops,
        SERVED | LIMITED,
        why="exports of one's own model",
        sections=_LIVES_LONG,
        has_jobs=True,
    ),
    "range-flood": Row(clients.range_flood, SERVED | {206, 400, 416}, why="ranges are optional"),
    "large-texture": Row(
        clients.large_texture,
        SERVED,
        why="lowered to the operator's limit",
        sections={"export": {"max_texture_size": 512}},
    ),
    "event-streams": Row(
        clients.event_streams,
        SERVED | LIMITED,
        LIMITED,
        why="streams within the limit of a client",
        has_jobs=True,
    ),
    "slow-lookups": Row(clients.slow_lookups, REFUSED | LIMITED | {404}, witness="texture"),
    "slow-pictures": Row(clients.slow_pictures, REFUSED | LIMITED),
    "slow-and-gone": Row(
        clients.slow_uploads_and_gone, SERVED, why="what it asks at the end is ordinary"
    ),
    "cancel-storm": Row(
        clients.cancel_storm, LIMITED | {204, 404}, why="its own jobs", has_jobs=True
    ),
    "disconnect-storm": Row(
        clients.disconnect_storm,
        SERVED | LIMITED,
        why="what it asks at the end is ordinary",
        has_jobs=True,
    ),
    "large-queue": Row(
        clients.large_queue,
        SERVED | LIMITED,
        frozenset({200}),
        why="jobs within its limit",
        sections={"worker": {"max_jobs_per_client": 4}},
        has_jobs=True,
    ),
    "killed-decoders": Row(
        clients.killed_decoders,
        SERVED | REFUSED | LIMITED,
        frozenset({200}),
        why="a decoder that is killed twice fails its job alone",
        tolerated=("tried again", "could be started"),
        has_jobs=True,
    ),
}

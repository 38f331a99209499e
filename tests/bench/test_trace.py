from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.trace import Span, Trace, TracedExecutor, gap_s, idle_percent, transfers_recorded
from tests.support.engines import GatedEngine
from trellis2_server.engines.trellis2.weight_copies import WeightCopies
from trellis2_server.inputs.images import Cutter
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_idle_time_and_gaps_are_what_lies_between_spans() -> None:
    steps = [Span("make_shape", "device", 10, 12), Span("make_texture", "device", 13, 18)]
    assert gap_s(*steps) == 1
    assert idle_percent(steps) == pytest.approx(100 / 8)


def test_a_file_names_the_threads_and_counts_microseconds_from_the_first_begin(
    tmp_path: Path,
) -> None:
    trace = Trace()
    trace.spans += [Span("bake", "cpu_0", 5.5, 6), Span("make_shape", "device_0", 5, 7)]
    trace.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = {(names[e["tid"]], e["name"]): (e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    assert spans == {("cpu_0", "bake"): (5e5, 5e5), ("device_0", "make_shape"): (0, 2e6)}


def test_copies_of_weights_are_recorded_until_the_block_ends() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    executor = TracedExecutor(GatedEngine(), Cutter(), Settings())
    copies, slab = WeightCopies(torch, "cpu"), torch.zeros(16, dtype=torch.uint8)
    with transfers_recorded(executor):
        copies.upload([slab])
    copies.upload([slab])
    assert [(span.name, span.row) for span in executor.trace.spans] == [("upload", "transfers")]

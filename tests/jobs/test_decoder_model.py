"""Every state of a job against every end of a decoder, beside all other faults.

The decoders are stood in for by gates; their pool is the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.jobs.test_manager_model import JOBS, Faults
from tests.support.gated_decoders import ENDS, GatedDecoders
from trellis2_server.errors import InputError
from trellis2_server.jobs.executor import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.support.gates import Place
    from trellis2_server import pipeline
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.settings import Settings


class DecoderFaults(Faults):
    """All that can happen to jobs and to their decoders."""

    def executor(self, configured: Settings) -> Executor:
        engine = cast("pipeline.Engine", self.engine)
        size = configured.worker.limit_model_concurrency + 1
        self.decoders = GatedDecoders(self.gates, JOBS, size)
        self.looks: dict[Place, int] = {}
        cutter = self.decoders.cutter()
        return LocalExecutor(engine, cutter, configured, self.decoders.pool)

    def run(self, call: Coroutine[Any, Any, None]) -> None:
        self.looks = {}
        super().run(call)

    def stands(self) -> bool:
        """Whether, besides, each decoder has seen that its job goes on."""
        looks = self.decoders.looks
        waiting = [key for key in self.gates.at if key[0] == "cutout"]
        seen = {key: self.looks.setdefault(key, looks[key]) for key in waiting}
        return super().stands() and all(looks[key] >= seen[key] + 2 for key in waiting)

    def decoding(self) -> list[Place]:
        return sorted(key for key in self.gates.at if key[0] == "cutout")

    @precondition(lambda self: self.decoding())
    @rule(at=st.integers(0, 9), end=st.sampled_from(sorted(ENDS)))
    def end_decoder(self, at: int, end: str) -> None:
        keys = self.decoding()
        key = keys[at % len(keys)]
        jobs = [asked.uid for asked in self.asked if asked.seed == key[1]]
        ends = {uid: self.ends[uid] for uid in jobs}

        async def let_go() -> None:
            self.gates.let_go(key, ENDS[end]())

        self.run(let_go())
        registry = self.manager.registry
        ended = [uid for uid in jobs if uid in registry and self.ends[uid] != ends.get(uid)]
        for uid in ended:
            error = registry[uid].error
            assert isinstance(error, InputError)
            assert str(error).startswith("image: decoding it")
        assert self.manager.availability.fatal_error is None or self.closing

    @rule(at=st.integers(0, 9))
    def kill_decoder(self, at: int) -> None:
        """A decoder ends, whether or not it works: nothing of the server tells it to."""
        processes = list(self.decoders.pool._processes.values())

        async def kill() -> None:
            if processes:
                processes[at % len(processes)].stop()

        self.run(kill())

    @invariant()
    def no_more_decoders_than_places(self) -> None:
        if hasattr(self, "decoders"):
            pool = self.decoders.pool
            assert len(pool._processes) <= self.manager.threads.cpu_workers + 2
            # Nobody waits for a decoder that is not needed any more.
            busy = len(self.decoding())
            assert sum(at not in pool._free for at in pool._processes) == busy

    @invariant()
    def no_decoder_works_for_a_job_that_has_ended(self) -> None:
        if hasattr(self, "decoders"):
            active = [self.manager.registry[active.uid] for active in self.manager.active_jobs]
            seeds = {job.options.seed for job in active if not job.status.is_finished}
            assert {seed for _, seed, _ in self.decoding()} <= seeds


TestDecoderFaults = DecoderFaults.TestCase
TestDecoderFaults.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=25, deadline=None
)

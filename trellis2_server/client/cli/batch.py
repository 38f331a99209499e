"""Running the jobs of a command, several at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from trellis2_server.client.cli.display import choose_display
from trellis2_server.client.cli.exit_codes import ExitCode, code_of, combine
from trellis2_server.client.cli.job import run_job
from trellis2_server.client.cli.report import print_outcome
from trellis2_server.client.client import AsyncClient
from trellis2_server.client.errors import BusyError, ClientError

if TYPE_CHECKING:
    from trellis2_server.client.cli.arguments import Command
    from trellis2_server.client.cli.display import Display
    from trellis2_server.client.progress import Progress

#: Longest time to wait for the server without --wait-for-server, seconds.
FIRST_CONTACT_S: Final = 3.0


async def run_batch(command: Command) -> ExitCode:
    """Run a job for each picture of a command."""
    display = choose_display(is_quiet=command.output.is_quiet)
    server = command.server
    client = AsyncClient(server.address, api_key=server.api_key, patience_s=server.patience_s)
    async with client:
        error = await _connect(client, display, is_awaited=server.is_awaited)
        if error is not None:
            display.write(f"error: {error}")
            return code_of(error)
        slots = asyncio.Semaphore(command.jobs)

        async def run(index: int) -> ExitCode:
            async with slots:
                outcome = await run_job(client, command, index, display)
            print_outcome(outcome, command.output, display)
            return code_of(outcome.error)

        indices = range(1, len(command.pictures) + 1)
        return combine(await asyncio.gather(*map(run, indices)))


async def _connect(
    client: AsyncClient, display: Display, *, is_awaited: bool
) -> ClientError | None:
    """Wait for the server; return an error if it cannot be used."""
    row = display.row("server")
    is_shown = False

    def show(progress: Progress) -> None:
        nonlocal is_shown
        is_shown = is_shown or progress.fraction < 1
        if is_shown:
            row.show(progress)

    try:
        await client.wait_until_ready(float("inf") if is_awaited else FIRST_CONTACT_S, show)
    except BusyError as error:
        # The server is reachable; each request is retried on its own.
        return error if is_awaited else None
    except ClientError as error:
        return error
    finally:
        row.end()
    return None

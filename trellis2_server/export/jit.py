"""The decorator that compiles the exporter's loops.

Compiled loops release the interpreter lock and are cached on disk.

numba's cache on disk does not notice a change of `is_cancelled`: delete it then.

Does not know: meshes, textures, threads.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trellis2_server.errors import MissingPackageError
from trellis2_server.export.cancellation import CANCELLED, OBSERVED

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import numba
    from numba.core import cgutils, config, types
    from numba.extending import intrinsic
except ImportError as error:
    raise MissingPackageError("The exporter needs numba: run `pip install numba`.") from error

logger = logging.getLogger(__name__)

_F = TypeVar("_F", bound="Callable[..., Any]")


def kernel(function: _F) -> _F:
    """Compile `function` on its first call, without the interpreter lock.

    `parallel=True` is not used: numba's built-in threading layer aborts the process when two
    threads enter it at the same time. See `parallel.parallel_for`.

    The machine code is cached beside the package or in the user's cache directory (numba's rules,
    `NUMBA_CACHE_DIR` first). If neither is writable, or the disk is full, each process compiles the
    kernel in memory, and a warning says so once.
    """
    try:
        loop: Any = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba: "no locator available", no cache directory is writable
        _warn_once("no folder for it can be written to")
        return cast("_F", numba.njit(nogil=True, error_model="numpy")(function))
    _forgive_errors_of_disk(getattr(loop, "_cache", None))
    return cast("_F", loop)


def _forgive_errors_of_disk(cache: Any) -> None:
    """Have a cache that cannot be read or written be none: numba would fail the export."""

    def forgiving(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_if_possible(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except OSError as error:
                _warn_once(str(error.strerror or error))
                return None

        return call_if_possible

    for name in ("load_overload", "save_overload"):
        if hasattr(cache, name):
            setattr(cache, name, forgiving(getattr(cache, name)))


@functools.cache
def _warn_once(cause: str) -> None:
    logger.warning(
        "Compiled code cannot be cached: each start compiles again, for about a minute. Set "
        "NUMBA_CACHE_DIR to a folder that can be written to",
        extra={"cause": cause},
    )


def _poll(typing_context: Any, flag: Any) -> Any:
    """Describe `is_cancelled` to numba."""
    del typing_context
    signature = types.boolean(flag)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        state = builder.load_atomic(array.data, "monotonic", 8)
        with builder.if_then(builder.icmp_signed("==", state, state.type(OBSERVED)), likely=False):
            counter = builder.gep(array.data, [cgutils.intp_t(1)])
            builder.store(builder.add(builder.load(counter), state.type(1)), counter)
        return builder.icmp_signed("==", state, state.type(CANCELLED))

    return signature, generate


def _poll_uncompiled(flag: Any) -> bool:
    """Poll the flag where loops are not compiled, as with `NUMBA_DISABLE_JIT`."""
    if flag[0] == OBSERVED:
        flag[1] += 1
    return bool(flag[0] == CANCELLED)


#: For loops: whether the flag of the export is set, see `cancellation.flag`. An atomic load, which
#: no compiler moves out of a loop. While a test observes the loop, it counts the calls.
is_cancelled = cast(
    "Callable[[Any], bool]",
    _poll_uncompiled if cast("Any", config).DISABLE_JIT else intrinsic(_poll),
)

"""Raw value → value, for each field of a request.

Values may come from JSON, a form or the query: a number or a boolean sent as text is parsed, a
number out of bounds is clamped, a word is matched whatever its case. Readers raise `InputError`,
with the field's name, on a value that makes no sense.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import InputError
from trellis2_server.request_fields import LEAST_LEVELS, MOST_LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trellis2_server.request_fields import Kind, RequestField

    #: Field, name under which the value came, raw value → value.
    Reader = Callable[[RequestField, str, Any], Any]

#: Larger angles have no meaningful remainder.
_MAX_DEGREES: Final = 1e9
#: Least size of a model, millimetres or metres.
_LEAST_SIZE: Final = 1e-3


def read(field: RequestField, name: str, value: object) -> Any:
    """Return the value of a field.

    Args:
        field: the field.
        name: the name or alias that the request uses.
        value: raw value, not None.

    Raises:
        InputError: the value makes no sense; begins with `name`.
    """
    is_list = isinstance(value, list) and field.kind not in {"interval", "integers"}
    if is_list or isinstance(value, dict):
        raise InputError(f"{name}: must be a single value")
    if field.word is not None and str(value).strip().lower() == field.word:
        return field.word
    reader = _BY_FIELD.get(field.name) or _BY_KIND[field.kind]
    return reader(field, name, value)


# ---- by kind -------------------------------------------------------------------------------


def _number(name: str, value: object) -> float:
    if isinstance(value, str):
        try:
            value = int(value) if re.fullmatch(r"\s*[+-]?\d{1,400}\s*", value) else float(value)
        except ValueError:
            raise InputError(f"{name}: not a number: {value[:40]!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}: must be a finite number")
    return value


def _clamped(name: str, value: object, bounds: tuple[float, float]) -> float:
    """Return a number in bounds; clamped as it is, because 400 digits do not fit a float."""
    return min(max(_number(name, value), bounds[0]), bounds[1])


def _real(field: RequestField, name: str, value: object) -> float:
    return float(_clamped(name, value, _bounds(field)))


def _whole(field: RequestField, name: str, value: object) -> int:
    return round(_clamped(name, value, _bounds(field)))


def _bounds(field: RequestField) -> tuple[float, float]:
    if field.bounds is None:
        raise AssertionError(f"{field.name} has no bounds, and no reader of its own")
    return field.bounds


def _boolean(field: RequestField, name: str, value: object) -> bool:
    del field
    word = str(value).strip().lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise InputError(f"{name}: must be true or false")


def _word(field: RequestField, name: str, value: object) -> str | None:
    wanted = str(value).strip().lower()
    if field.is_nullable and wanted in {"", "none", "null", "false"}:
        return None
    for choice in map(str, field.choices):
        if choice.lower() == wanted:
            return choice
    raise InputError(f"{name}: must be one of {', '.join(map(str, field.choices))}")


def _interval(field: RequestField, name: str, value: object) -> tuple[float, float]:
    del field
    parts: object = re.split(r"[,\s]+", value.strip(" []()")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2:  # noqa: PLR2004
        raise InputError(f"{name}: must be two numbers, from and to, between 0 and 1")
    low, high = (float(_clamped(name, part, (0.0, 1.0))) for part in parts)
    if low > high:
        raise InputError(f"{name}: from {low} must not be over to {high}")
    return low, high


def _integers(field: RequestField, name: str, value: object) -> tuple[int, ...]:
    parts: object = re.split(r"[,\s]+", value.strip(" []()")) if isinstance(value, str) else value
    if isinstance(parts, list | tuple) and not parts:
        return ()
    if not isinstance(parts, list | tuple) or not LEAST_LEVELS <= len(parts) <= MOST_LEVELS:
        raise InputError(f"{name}: must be two to {MOST_LEVELS} numbers, descending")
    found = tuple(round(_clamped(name, part, _bounds(field))) for part in parts)
    if any(later >= earlier for earlier, later in pairwise(found)):
        raise InputError(f"{name}: each number must be less than the one before")
    return found


_BY_KIND: Final[Mapping[Kind, Reader]] = {
    "integer": _whole,
    "integers": _integers,
    "number": _real,
    "boolean": _boolean,
    "string": _word,
    "interval": _interval,
}


# ---- by field, where the kind is not enough ------------------------------------------------


def _seed(field: RequestField, name: str, value: object) -> int:
    """Return a seed; not clamped, because another seed is another model."""
    number = _number(name, value)
    low, high = _bounds(field)
    if number != int(number) or not low <= number <= high:
        raise InputError(f"{name}: must be a whole number from {low} (random) to {high}")
    return int(number)


def _angle(field: RequestField, name: str, value: object) -> float:
    del field
    return math.fmod(float(_clamped(name, value, (-_MAX_DEGREES, _MAX_DEGREES))), 360.0)


def _texture_size(field: RequestField, name: str, value: object) -> int:
    sizes = [int(size) for size in field.choices]
    wanted = _clamped(name, value, (1, sizes[-1]))
    return min(sizes, key=lambda size: abs(math.log2(size / wanted)))


def _size(field: RequestField, name: str, value: object) -> float:
    """Return a length, or 0; not smaller than a thousandth, so that no model vanishes."""
    length = float(_clamped(name, value, (-1.0, _bounds(field)[1])))
    if length < 0:
        raise InputError(f"{name}: must not be negative")
    return max(length, _LEAST_SIZE) if length else 0.0


def _resolution(field: RequestField, name: str, value: object) -> int:
    wanted = _number(name, value)
    return min(map(int, field.choices), key=lambda known: abs(known - wanted))


_BY_FIELD: Final[Mapping[str, Reader]] = {
    "seed": _seed,
    "geo_rotation": _angle,
    "texture_size": _texture_size,
    "resolution": _resolution,
    "size_mm": _size,
    "size_m": _size,
}

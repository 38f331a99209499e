"""Compares what two checkouts' servers, command lines and clients do, byte by byte.

    python bench/same.py OLD NEW                      all groups
    python bench/same.py OLD NEW --only files         one group; may be given several times
    python bench/same.py OLD NEW --allow FILE         another list of wording that may differ

For changes that are to leave the behaviour as it is. Both sides get the same requests at the
same time; every reply's status, headers and body, every command's output and every file
written must be the same. What differs by nature (uids, times, ports, folders) is replaced
first: `same_server.py`. Exit status 1 where something differs.

Wording that changes on purpose is listed in `same_wording.json`: objects with `old` and `new`,
which replace text of OLD before it is compared; `regex: true` makes `old` a pattern; `in`, a
pattern of labels as a shell's, says where (everywhere without it). An object with `in` and
`ignore: true` leaves those records out, and `why` says why. What is used nowhere is reported.

Groups: see `GROUPS`. They must give the same records at every run: what depends on timing is
left out, or recorded in a form that does not.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import json
import re
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import same_commands, same_fields, same_models, same_process, same_requests  # noqa: E402 - after the path is set
from bench.same_server import Record, Side  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORDING: Final = Path(__file__).resolve().parent / "same_wording.json"
GROUPS: Final[dict[str, Callable[[Side], None]]] = {
    **same_requests.GROUPS,
    **same_fields.GROUPS,
    **same_models.GROUPS,
    **same_commands.GROUPS,
    **same_process.GROUPS,
}
#: Lines of a difference that are shown.
MAX_LINES: Final = 40


@dataclass(slots=True)
class Wording:
    """One entry of the list of what may differ.

    Attributes:
        says: as it stands in the file.
        uses: records that it changed or left out.
    """

    says: dict[str, Any]
    uses: int = field(default=0)

    def applies(self, label: str) -> bool:
        return fnmatch.fnmatchcase(label, self.says.get("in", "*"))

    def change(self, text: str) -> str:
        old: str = self.says["old"]
        if self.says.get("regex"):
            changed = re.sub(old, self.says["new"], text)
        else:
            changed = text.replace(old, self.says["new"])
        self.uses += changed != text
        return changed


def differences(
    group: str, old: Sequence[Record], new: Sequence[Record], wordings: Sequence[Wording]
) -> list[str]:
    """What differs between the records of a group, ready to print."""
    found: list[str] = []
    ours, theirs = ({record.label: record for record in side} for side in (old, new))
    for label, record in ours.items():
        place = f"{group}: {label}"
        listed = [wording for wording in wordings if wording.applies(place)]
        ignored = [wording for wording in listed if wording.says.get("ignore")]
        for wording in ignored:
            wording.uses += 1
        if ignored:
            continue
        if label not in theirs:
            found.append(f"{place}: NEW has no such record{_short(record)}")
            continue
        content = record.content
        if content == theirs[label].content:
            continue
        if isinstance(content, str):
            for wording in listed:
                content = wording.change(content)
        if content != theirs[label].content:
            found.append(f"{place}\n{_difference(content, theirs[label].content)}")
    found += [
        f"{group}: {label}: OLD has no such record{_short(record)}"
        for label, record in theirs.items()
        if label not in ours and not _is_ignored(f"{group}: {label}", wordings)
    ]
    return found


def _is_ignored(place: str, wordings: Sequence[Wording]) -> bool:
    return any(wording.says.get("ignore") and wording.applies(place) for wording in wordings)


def _short(record: Record) -> str:
    if isinstance(record.content, bytes):
        return f", of {len(record.content)} bytes"
    return "".join(f"\n    {line[:600]}" for line in record.content.splitlines()[-MAX_LINES:])


def _difference(old: str | bytes, new: str | bytes) -> str:
    if isinstance(old, str) and isinstance(new, str):
        lines = difflib.unified_diff(
            old.splitlines(), new.splitlines(), "OLD", "NEW", "", "", 1, ""
        )
        shown = [line[:600] for line in lines]
        more = [f"… {len(shown) - MAX_LINES} more lines"] if len(shown) > MAX_LINES else []
        return "\n".join(f"    {line}" for line in (*shown[:MAX_LINES], *more))
    if isinstance(old, str) or isinstance(new, str):
        return f"    {type(old).__name__} and {type(new).__name__}: text and bytes"
    at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    at = min(len(old), len(new)) if at is None else at
    start = max(at - 8, 0)
    return (
        f"    {len(old)} bytes in OLD, {len(new)} in NEW, the first that differs is at {at}\n"
        f"    OLD … {old[start : at + 24]!r}\n    NEW … {new[start : at + 24]!r}"
    )


def run(name: str, sides: Sequence[Side]) -> tuple[Sequence[Record], Sequence[Record]]:
    """What the group records of both sides, which work at the same time."""
    group = GROUPS[name]
    for side in sides:
        side.begin()
    with ThreadPoolExecutor(len(sides)) as executor:
        runs = [executor.submit(group, side) for side in sides]
    for side, ended in zip(sides, runs, strict=True):
        error = ended.exception()
        if error is not None:  # never the same on both sides: it is told of either way
            lines = "".join(traceback.format_exception(error)[-3:])
            side.records.append(Record(f"{side.name} went no further", lines))
    old, new = (tuple(side.records) for side in sides)
    return old, new


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout")
    parser.add_argument("new", type=Path, metavar="NEW", help="another one")
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="a group of many")
    parser.add_argument("--allow", type=Path, default=WORDING, metavar="FILE")
    parser.add_argument("--show", metavar="LABELS", help="print OLD's records of these labels too")
    asked = parser.parse_args()
    wordings = [Wording(says) for says in json.loads(asked.allow.read_text(encoding="utf-8"))]
    found: list[str] = []
    total = 0
    begin = time.monotonic()
    for name in asked.only or GROUPS:
        with tempfile.TemporaryDirectory() as folder:
            sides = [
                Side(word, checkout.resolve(), Path(folder) / word)
                for word, checkout in (("OLD", asked.old), ("NEW", asked.new))
            ]
            since = time.monotonic()
            old, new = run(name, sides)
            differing = differences(name, old, new, wordings)
        found += differing
        total += len(old)
        seconds = time.monotonic() - since
        print(f"{name:12} {len(old):5} compared, {len(differing)} differ, {seconds:.1f} s")
        for text in differing:
            print(f"  {text}")
        for record in old if asked.show else ():
            if fnmatch.fnmatchcase(f"{name}: {record.label}", asked.show):
                print(f"  = {record.label}\n{record.content!s:.3000}")
    unused = [wording.says for wording in wordings if not wording.uses]
    if not asked.only:
        for says in unused:
            print(f"used nowhere, remove it from {asked.allow.name}: {json.dumps(says)}")
    print(f"{total} compared, {len(found)} differ, {time.monotonic() - begin:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())

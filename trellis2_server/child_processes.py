"""Environment of child processes that run this package's own programs.

Does not know: which programs there are.
"""

from __future__ import annotations

import os
import sys


def import_path() -> dict[str, str]:
    """Return the variable with which a child imports the same packages as this process."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

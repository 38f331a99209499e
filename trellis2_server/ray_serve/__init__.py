"""The same server over many GPUs and machines, on Ray Serve.

    PYTHONPATH=. serve run deploy/ray_serve.yaml

    clients ── Serve's proxies ── ingresses ── jobs ──┬── engines   one stage at a time each
                                                      ├── cutters   cut-outs
                                                      └── tasks     exports

Each name but the last is a deployment of Ray Serve, which replaces processes that end. The
ingresses serve the routes of `create_api`; the only replica of `jobs`, the jobs process, has all
jobs and the scheduler; exports are Ray tasks.
"""

from __future__ import annotations

from trellis2_server.ray_serve.application import build, build_app
from trellis2_server.ray_serve.settings import ClusterSettings

__all__ = ["ClusterSettings", "build", "build_app"]

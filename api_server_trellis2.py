"""HTTP server for TRELLIS.2: `python api_server_trellis2.py --help`."""

from pathlib import Path

from trellis2_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main(config_folder=Path(__file__).resolve().parent))

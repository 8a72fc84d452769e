"""Where the benchmark keeps what it makes. All of it but the results is ignored by git."""

from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
PEERS = BENCH / "peers"
RESULTS = BENCH / "results"
# PostgreSQL's data has to be on a real disk for commits to cost what they cost; so not in a temporary directory.
DATA = BENCH / ".data"
VENV = BENCH / ".venv"
NODE = BENCH / ".node"

"""Write both documents into docs/."""

from pathlib import Path

from documents.store import NAMES, Documents
from routes import ROUTES
from version import VERSION

if __name__ == "__main__":
    documents = Documents(ROUTES, VERSION)
    for name in NAMES:
        path = Path(__file__).parent.parent / "docs" / f"{name}.json"
        path.write_bytes(documents.read(name))
        print(f"docs/{path.name}  {path.stat().st_size:,} bytes")

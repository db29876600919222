"""A digest of source code: results of other code are computed again."""

from functools import cache
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent


@cache
def stamp_of(folder: Path) -> str:
    """Digest of the sources of a folder and of this one, which its compiled code is made of."""
    sources = [path for place in (folder, HERE) for path in sorted(place.glob("*.py"))]
    return sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

"""The caches of scans: list them, or remove them.

Scans are read once and kept, in a folder and in files that only their owner may read. Named
weights, which are in a folder beside them, stay.
"""

from dataclasses import dataclass

from dme.common.errors import by_door
from dme.common.options import parsed, setting


@dataclass(frozen=True)
class Settings:
    """What to do with them."""

    clear: bool = setting(False, "remove every cache of scans; the next run reads the scans again")


def main() -> None:
    """List the caches, or remove them."""
    settings = parsed(__doc__, Settings)

    # imported only now, so that --help is answered at once
    from dme.common.files import cache_folder
    from dme.data.cache import cached_files, remove

    folder = cache_folder()
    total = 0
    files = cached_files(folder)
    for path in files:
        size = path.stat().st_size
        total += size
        done = "removed" if settings.clear and remove(path) else "kept"
        print(f"{size / 1e6:9.1f} MB  {done}  {path.name}")
    print(f"{folder}: {len(files)} caches of scans, {total / 1e6:.1f} MB")
    if files and not settings.clear:
        print(by_door("./run.sh cache --clear removes them"))

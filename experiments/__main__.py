"""`python experiments SCRIPT [arguments]`, by which ./run.sh runs a script of this folder.

Ctrl-C has its one line also while the script and what it needs are imported.
"""

import runpy
import sys
from pathlib import Path

from dme.common.errors import run


def main() -> None:
    """Run the script as if it had been called itself."""
    script = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    run(main)

"""`python experiments/export.py`: the command is dme/commands/export.py."""

from dme.commands.export import main
from dme.common.errors import run

if __name__ == "__main__":
    run(main)

"""`python experiments/prepare.py`: the command is dme/commands/prepare.py."""

from dme.commands.prepare import main
from dme.common.errors import run

if __name__ == "__main__":
    run(main)

"""`python experiments/weights.py`: the command is dme/commands/weights.py."""

from dme.commands.weights import main
from dme.common.errors import run

if __name__ == "__main__":
    run(main)

"""`python experiments/finetune.py`: the command is dme/commands/finetune.py."""

from dme.commands.finetune import main
from dme.common.errors import run

if __name__ == "__main__":
    run(main)

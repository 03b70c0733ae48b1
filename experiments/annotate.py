"""`python experiments/annotate.py`: the command is dme/commands/annotate.py."""

from dme.common.errors import run_module

if __name__ == "__main__":
    run_module("dme.commands.annotate")

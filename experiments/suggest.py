"""`python experiments/suggest.py`: the command is dme/commands/suggest.py."""

from dme.common.errors import run_module

if __name__ == "__main__":
    run_module("dme.commands.suggest")

"""`python experiments/predict.py`: the command is dme/commands/predict.py."""

from dme.commands.predict import main
from dme.common.errors import run

if __name__ == "__main__":
    run(main)

"""`dme COMMAND` and `python -m dme COMMAND`. A command is imported when it is chosen."""

import sys
from importlib import import_module

from dme import __version__
from dme.common.errors import InputError, run

COMMANDS = {
    "predict": "find fluid or layers in new scans: masks, overlays, measurements, report",
    "annotate": "correct scans in a browser: fluid, boundaries; a folder to train on",
    "suggest": "which scans to label next",
    "finetune": "fine-tune a network on B-scans to segment fluid or layers, and score it",
    "prepare": "describe a data set: counts, class balance, splits, pictures",
    "weights": "list, download, verify and convert named checkpoints",
    "cache": "list or clear the caches of scans",
    "export": "a network as one file that runs without dme: ONNX or torch.export",
}


def main() -> None:
    """Run the command that the first argument names, and leave the process as `run` says."""
    run(choose)


def choose() -> int | None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage(), flush=True)
        return 0
    if name == "--version":
        print(f"dme {__version__}")
        return 0
    if name not in COMMANDS:
        raise InputError(f"unknown command '{name}'; dme --help lists what there is")
    sys.argv = [f"dme {name}", *arguments]  # argparse and the results' provenance show it
    return import_module(f"dme.commands.{name}").main()


def usage() -> str:
    lines = ["usage: dme COMMAND [arguments; --help lists a command's own]", ""]
    for name, purpose in COMMANDS.items():
        lines.append(f"  {name:10} {purpose}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

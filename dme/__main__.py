"""`dme COMMAND` and `python -m dme COMMAND`. A command is imported when it is chosen."""

import sys

from dme import __version__
from dme.common.errors import run_module

COMMANDS = {
    "predict": "find fluid or layers in new scans: masks, overlays, measurements, report",
    "finetune": "fine-tune a network on B-scans to segment fluid or layers, and score it",
    "prepare": "describe a data set: counts, class balance, splits, pictures",
    "weights": "list, download, verify and convert named checkpoints",
    "export": "a network as one file that runs without dme: ONNX or torch.export",
}


def main() -> None:
    """Run the command that the first argument names. Exit code 2 for an unknown one."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        print(f"dme {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"dme {name}", *arguments]  # argparse and the results' provenance show it
        run_module(f"dme.commands.{name}")
    else:
        print(f"error: unknown command '{name}'; dme --help lists what there is", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    lines = ["usage: dme COMMAND [arguments; --help lists a command's own]", ""]
    for name, purpose in COMMANDS.items():
        lines.append(f"  {name:10} {purpose}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

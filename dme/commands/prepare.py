"""Preliminary study of a data set: B-scans, class balance, what was cleaned and leaks, examples.

    ./run.sh prepare --data /path/to/2015_BOE_Chiu

Writes results.json and examples.png (B-scans beside their annotation, as in Figures 2 and 3 of the
paper).
"""

from dataclasses import dataclass
from pathlib import Path

from dme.common.errors import InputError
from dme.common.options import parsed, setting
from dme.common.words import LARGEST_SIDE


@dataclass(frozen=True)
class Settings:
    """Which data set, and how it is to be split and resized."""

    data: str | None = setting(
        None, ".mat file or folder (default: DME_DATA, else synthetic B-scans)"
    )
    grader: int = setting(1, "whose annotations of .mat files: 1 or 2")
    fluid_value: tuple[int, ...] | None = setting(
        None, "values of the masks that are fluid (default: found out, and said)"
    )
    split: str | None = setting(
        None, "paper, random or subject:K/5 (default: paper for the Duke set, else random)"
    )
    size: int = setting(
        256, "side of the square images that the study works on", minimum=1, maximum=LARGEST_SIDE
    )
    out: Path = setting(Path("runs/prepare"), "results folder")


def main() -> None:
    settings = parsed(__doc__, Settings)

    # imported only now, so that --help is answered at once
    from dme.common.files import write_json
    from dme.common.folders import refuse_foreign
    from dme.common.provenance import provenance
    from dme.data.cache import open_cache
    from dme.data.description import count_pixels, describe, example_panel
    from dme.data.opening import open_source
    from dme.data.source import subjects_known
    from dme.drawing.canvas import save_png

    refuse_foreign(settings.out, "results.json", ["examples.png"])

    # the B-scans at their own sizes, and as the study sees them
    source = open_source(settings.data, settings.grader, settings.fluid_value)
    print(f"data: {source.description}")
    native = open_cache(source)
    small = open_cache(source, settings.size)
    for note in native.notes:
        print(f"  {note}")
    if native.fluid is None:
        raise InputError(
            f"{source.description}: nothing to study without fluid labels; "
            "add masks or choose other data"
        )

    # the study, on the screen and in files
    usual_split = "paper" if native.is_duke else "random"
    description = describe(native, small, settings.split or usual_split)
    print_description(description, subjects_known(native.notes))

    results = settings.out / "results.json"
    examples = settings.out / "examples.png"
    data = {
        "data": source.description,
        "data_sha256": source.sha256,
        "notes": list(native.notes),
    }
    write_json(results, {**data, **description, **provenance()})
    fluid_px, _ = count_pixels(native)
    save_png(examples, example_panel(native, fluid_px))
    print(f"\nwrote {results} and {examples}: see there whether fluid is where it should be")


def print_description(description: dict, eyes_known: bool = True) -> None:
    """The numbers of `dme.data.description.describe` as text.

    eyes_known: whether the subjects are; what leaks is only known then.
    """
    # sizes, then a line for each subject and for all
    total = description["total"]
    sizes = ", ".join(f"{count} of {size} px" for size, count in description["sizes"].items())
    print(f"\n{total['scans']} B-scans: {sizes}")

    print("\nsubject  scans  empty  fluid %  wedge %")
    for name, row in [*description["subjects"].items(), ("all", total)]:
        percents = f"{row['fluid_percent']:>7.2f}  {row['wedge_percent']:>7.2f}"
        print(f"{name:>7}  {row['scans']:>5}  {row['empty']:>5}  {percents}")

    # balance, wedge, and what the split leaks
    resized = description["resized"]
    share = f"{total['fluid_percent']:.2f} % of graded pixels"
    balance = f"one in {description['graded_per_fluid_px']:.0f}"
    at_size = f"{resized['fluid_percent']:.2f} % at {resized['size']} px"
    print(f"\nfluid: {share}, {balance}; {at_size}")
    wedge = f"{total['wedge_percent']:.2f} % of pixels"
    wide = f"over 1 % of the picture in {description['scans_over_1_percent_wedge']} B-scans"
    print(f"saturated wedge (255 up to the top or bottom): {wedge}, {wide}")

    split = description["split"]
    sides = f"{split['train']} train, {split['validation']} validation B-scans"
    print(f"split {split['name']}: {sides}; of the latter")
    leaking = split["validation_beside_train"]
    if eyes_known:
        print(f"  {leaking} leak: an adjacent annotated B-scan of the same eye is in train")
    else:
        print("  which are of one eye is unknown: index.csv can say it")
    print(f"  {split['validation_empty']} are empty")

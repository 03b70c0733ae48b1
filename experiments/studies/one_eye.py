"""What do the other scans of an eye gain when a network learns from a few corrected ones?

python experiments/studies/one_eye.py --data chiu2015 --amp bf16
python experiments/studies/one_eye.py --results experiments/results/one_eye --amp bf16 --print

For every eye the network of a fold that did not see it, then the same network after a minute of
fine-tuning on 1, 2 and 4 of the eye's scans, whose truth plays the person who corrects them. The
first is the scan in which the network finds most fluid, each next one the farthest from those
before. All are scored on the eye's scans that are never corrected, which are the same for every
count. Neighbouring B-scans are near copies: the gain is this eye's and says nothing of others.
How to fine-tune was tried on four scans of each eye of folds 1 and 2, which chose recipes before.
"""

from dataclasses import dataclass

import numpy as np

from dme.common.errors import InputError, run
from dme.common.options import check, setting
from dme.common.tables import mean_sd, table_head, table_line
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.retina.agreement import dice
from dme.training import series

FOLDS = 5
EVERY_FOLD = tuple(range(1, FOLDS + 1))
BEFORE = "--recipe fluid"
# about a minute of one core; what was tried first, and in the end
COMMON = "--iters 120 --batch 2 --warmup 10 --ema 0.9 --split all"
CHOSEN = "synthetic scans beside"
TUNINGS = {
    "as fast as from the start": f"--recipe fluid --synthetic 0 --lr 5e-4 {COMMON}",
    "slower": f"--recipe fluid --synthetic 0 --lr 1e-4 {COMMON}",
    CHOSEN: f"--recipe fluid --synthetic 20 --lr 2e-4 {COMMON}",
}
TRIED_ON = (1, 2)  # folds
CORRECTED = (1, 2, 4)


@dataclass(frozen=True)
class Settings:
    """What is run."""

    folds: tuple[int, ...] = setting(EVERY_FOLD, "which ones", choices=EVERY_FOLD)
    __post_init__ = check


@dataclass(frozen=True)
class Eye:
    """An eye that a fold's network did not see, its scans in order, and what was found in them."""

    number: int
    network: str  # the run that made the network
    names: list[str]
    counts: np.ndarray  # (scans, 2, 2) pixels by truth and prediction

    @property
    def corrected(self) -> list[str]:
        """Names of the scans to correct, the first one first."""
        found_px = self.counts[:, :, 1].sum(1)
        places = [int(found_px.argmax())]
        while len(places) < max(CORRECTED):
            # from each scan to the nearest of those chosen
            every = np.arange(len(self.names))[:, None]
            distances = np.abs(every - places).min(1)
            places.append(int(distances.argmax()))
        return [self.names[place] for place in places]

    def run_name(self, count: int, tuning: str = CHOSEN) -> str:
        """Of the fine-tuning on so many corrected scans."""
        return f"{tuning.replace(' ', '-')}-eye{self.number}-{count}"


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/one_eye")

    # fold by fold, so that each eye is known as soon as it can be
    eyes: list[Eye] = []
    results: series.Results = {}
    for fold in settings.folds:
        name = f"fold{fold}"
        words = f"{BEFORE} --split subject:{fold}/{FOLDS} --amp {args.amp} --seed 0".split()
        networks = series.gather(args, {name: words}, may_be_empty=True)
        if networks:
            seen = eyes_of(name, networks[name])
            weights = str(args.out / name / "model.pt")
            ways = [(CHOSEN, count) for count in CORRECTED]
            tuned = fine_tunings(seen, ways, weights, args.amp)
            if fold in TRIED_ON:
                ways = [(tuning, max(CORRECTED)) for tuning in TUNINGS]
                tuned |= fine_tunings(seen, ways, weights, args.amp)
            results |= networks | series.gather(args, tuned, may_be_empty=True)
            eyes += seen
    if not eyes:
        raise InputError("no network is finished; run without --print first")
    series.refuse_mixed(results.values(), series.results_folder(args))

    table = markdown(eyes, results)
    series.leave_table(args, "one_eye", table)
    save_png(args.out / "one_eye.png", picture(eyes, results))
    print(f"curve: {args.out / 'one_eye.png'}")


def eyes_of(network: str, result: dict) -> list[Eye]:
    """The eyes that a fold left out. Raises InputError for one of too few scans."""
    subjects = np.array(result["subjects"])
    counts = np.array(result["counts_per_scan"]["native"])
    eyes = []
    for number in sorted(set(result["subjects"])):
        places = np.flatnonzero(subjects == number)
        if len(places) <= max(CORRECTED):
            raise InputError(
                f"eye {number} has {len(places)} scans; expected more than {max(CORRECTED)}, "
                "so that some are left to score; use eyes with more scans"
            )
        names = [result["scans"][place] for place in places]
        eyes.append(Eye(number, network, names, counts[places]))
    return eyes


def fine_tunings(
    eyes: list[Eye], ways: list[tuple[str, int]], weights: str, amp: str
) -> series.Runs:
    """Names, and arguments of finetune.py; the scans of all eyes are scored, few are looked at.

    ways: one of TUNINGS, and on how many corrected scans.
    """
    runs = {}
    for eye in eyes:
        for tuning, count in ways:
            runs[eye.run_name(count, tuning)] = arguments(eye, count, tuning, weights, amp)
    return runs


def arguments(eye: Eye, count: int, tuning: str, weights: str, amp: str) -> list[str]:
    """Of finetune.py."""
    words = f"{TUNINGS[tuning]} --amp {amp} --seed 0 --weights {weights} --train-on".split()
    return [*words, *eye.corrected[:count]]


# ---- what came out


def other_counts(eye: Eye, result: dict) -> np.ndarray:
    """Pixels (2, 2) by truth and prediction, over the eye's scans that are never corrected."""
    counts = result["counts_per_scan"]["native"]
    by_name = dict(zip(result["scans"], counts, strict=True))
    others = [by_name[name] for name in eye.names if name not in eye.corrected]
    return np.sum(others, axis=0)


def counts_of(eye: Eye, results: series.Results) -> list[np.ndarray] | None:
    """Before, then after each of CORRECTED; None unless all are finished."""
    names = [eye.network, *(eye.run_name(count) for count in CORRECTED)]
    if any(name not in results for name in names):
        return None
    return [other_counts(eye, results[name]) for name in names]


def finished(eyes: list[Eye], results: series.Results) -> tuple[list[Eye], np.ndarray]:
    """Eyes whose runs are finished, and their counts (eyes, before and after, 2, 2)."""
    complete = []
    counts = []
    for eye in eyes:
        of_eye = counts_of(eye, results)
        if of_eye is not None:
            complete.append(eye)
            counts.append(of_eye)
    shape = (len(complete), 1 + len(CORRECTED), 2, 2)
    return complete, np.array(counts, np.int64).reshape(shape)


def markdown(eyes: list[Eye], results: series.Results) -> str:
    """A row per eye, all together, and in how many eyes it helps."""
    kind = series.kind_of_scans(results.values())
    complete, counts = finished(eyes, results)
    lines = [
        f"Fluid Dice, all columns, pooled over the {kind} scans of an eye that are not corrected, "
        "one seed",
        "",
    ]
    titles = [f"{count} corrected" for count in CORRECTED]
    lines += table_head(["eye", "scans scored", "before", *titles])
    scored = 0
    for eye, of_eye in zip(complete, counts, strict=True):
        others = len(eye.names) - len(eye.corrected)
        scored += others
        cells = [cell(pixels) for pixels in of_eye]
        lines.append(table_line([eye.number, others, *cells]))
    # all eyes together
    if complete:
        cells = [cell(pixels) for pixels in counts.sum(0)]
        lines.append(table_line(["all", scored, *cells]))
        lines += ["", *gains(counts)]
    absent = [str(eye.number) for eye in eyes if eye not in complete]
    if absent:
        lines += ["", f"Missing: runs of eyes {', '.join(absent)}."]
    return "\n".join([*lines, "", *tried(eyes, results)]) + "\n"


def tried(eyes: list[Eye], results: series.Results) -> list[str]:
    """A row per way to fine-tune: on the eyes of which every way is finished, most scans."""
    most = max(CORRECTED)
    columns = []
    for eye in eyes:
        runs = series.present(results, [eye.run_name(most, tuning) for tuning in TUNINGS])
        if len(runs) == len(TUNINGS):
            columns.append((eye, [results[eye.network], *runs]))
    if not columns:
        return []
    titles = [f"eye {eye.number}" for eye, _ in columns]
    lines = table_head([f"how to fine-tune on {most} scans", *titles])
    for place, name in enumerate(("not at all", *TUNINGS)):
        cells = [cell(other_counts(eye, runs[place])) for eye, runs in columns]
        lines.append(table_line([name, *cells]))
    return lines


def cell(counts: np.ndarray) -> str:
    value = dice(counts)
    return "" if np.isnan(value) else f"{value:.4f}"


def gains(counts: np.ndarray) -> list[str]:
    """A sentence per count. counts: (eyes, before and after, 2, 2)."""
    lines = []
    pooled = [dice(of_all) for of_all in counts.sum(0)]
    for place, count in enumerate(CORRECTED, start=1):
        before = np.array([dice(of_eye[0]) for of_eye in counts])
        after = np.array([dice(of_eye[place]) for of_eye in counts])
        # an eye without any fluid gains nothing that can be told
        gained = after - before
        gained = gained[~np.isnan(gained)]
        if len(gained):
            lines.append(
                f"- {count} corrected: {pooled[place] - pooled[0]:+.4f} pooled, "
                f"{mean_sd(gained.tolist())} mean over eyes; better in "
                f"{int((gained > 0).sum())} of {len(gained)} eyes."
            )
    return lines


def picture(eyes: list[Eye], results: series.Results) -> np.ndarray:
    """Dice over the number of corrected scans, all finished eyes pooled, and their mean."""
    _, counts = finished(eyes, results)
    lines: dict[str, list[tuple[float, float]]] = {}
    for place, count in enumerate((0, *CORRECTED)):
        by_eye = np.array([dice(of_eye[place]) for of_eye in counts])
        known = by_eye[~np.isnan(by_eye)]
        if len(known):
            values = {
                "all eyes pooled": dice(counts[:, place].sum(0)),
                "mean over eyes": float(known.mean()),
            }
            for name, value in values.items():
                lines.setdefault(name, []).append((float(count), value))
    scans = series.kind_of_scans(results.values())
    return line_plot(lines, f"corrected scans of the eye, {scans} scans", "fluid Dice of others")


if __name__ == "__main__":
    run(main)

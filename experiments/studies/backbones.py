"""Which network to choose? The UNet beside the MobileNets: size, time, fluid found, HRF or not.

HRF_DATA=FOLDER python experiments/studies/backbones.py     # runs without a result, then the table
python experiments/studies/backbones.py --networks unet-psp mobilenet_v3_small-lraspp --starts none
python experiments/studies/backbones.py --results experiments/results/backbones --amp bf16 --print

Every network is pretrained on vessels for as many minutes and fine-tuned for as many steps as the
others. Finished runs are files in --results, the pretrained networks stay in --out. An interrupted
series continues where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluid_tables import CENTRAL

from dme.common.errors import run
from dme.common.options import check, setting
from dme.common.tables import fewest_to_most, mean_sd, table_head, table_line
from dme.training import series

# backbone, head, and steps of pretraining: a quarter of an hour on one CPU thread with --amp bf16
NETWORKS = {
    "unet-psp": ("unet", "psp", 1200),
    "mobilenet_v2-fcn": ("mobilenet_v2", "fcn", 560),
    "mobilenet_v2-psp": ("mobilenet_v2", "psp", 780),
    "mobilenet_v2-deeplabv3": ("mobilenet_v2", "deeplabv3", 350),
    "mobilenet_v3_large-lraspp": ("mobilenet_v3_large", "lraspp", 970),
    "mobilenet_v3_small-lraspp": ("mobilenet_v3_small", "lraspp", 1530),
}
STARTS = {"none": "nothing", "hrf": "vessels (HRF)"}
SPLITS = ("paper", "subject:4/5")
COSTS = ("million parameters", "GMAC", "ms", "min on HRF")
STEPS = 300  # of fine-tuning, fewer than recipe best has of itself: there are 48 runs


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    networks: tuple[str, ...] = setting(tuple(NETWORKS), "which ones", choices=tuple(NETWORKS))
    starts: tuple[str, ...] = setting(
        tuple(STARTS), "where the weights come from", choices=tuple(STARTS)
    )
    splits: tuple[str, ...] = setting(SPLITS, "splits of finetune.py")
    seeds: tuple[int, ...] = setting((0, 1), "runs of each")
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/backbones")

    # vessels first, which half of the other runs start from
    pretraining = pretraining_runs(settings, args.amp)
    pretrained = series.gather(args, pretraining, script="pretrain_hrf.py", may_be_empty=True)
    results = series.gather(args, finetuning_runs(settings, args.amp, args.out))
    folder = series.results_folder(args)
    # of all networks, with --print too: they cost a minute, once
    measuring = {"costs": list(NETWORKS)}
    costs = series.run_missing("benchmarks/costs.py", measuring, args.out, folder)["costs"]

    table = markdown(settings, costs["rows"], pretrained, results)
    series.leave_table(args, "backbones", table)


def pretraining_runs(settings: Settings, amp: str) -> series.Runs:
    """Names, and arguments of pretrain_hrf.py."""
    if "hrf" not in settings.starts:
        return {}
    runs = {}
    for name in settings.networks:
        backbone, head, steps = NETWORKS[name]
        words = f"--backbone {backbone} --heads {head} --steps {steps} --amp {amp} --seed 0"
        runs[f"pretrain-{name}"] = words.split()
    return runs


def finetuning_runs(settings: Settings, amp: str, out: Path) -> series.Runs:
    """Names, and arguments of finetune.py."""
    runs = {}
    for seed in settings.seeds:
        for split in settings.splits:
            for name in settings.networks:
                backbone, head, _ = NETWORKS[name]
                network = f"--recipe best --iters {STEPS} --backbone {backbone} --head {head}"
                pretrained = str(out / f"pretrain-{name}" / f"best-{head}.pt")
                for start in settings.starts:
                    weights = ["--weights", pretrained if start == "hrf" else start]
                    rest = f"--split {split} --amp {amp} --seed {seed}".split()
                    run = run_name(name, start, split, seed)
                    runs[run] = [*network.split(), *weights, *rest]
    return runs


def run_name(network: str, start: str, split: str, seed: int) -> str:
    return f"{network}-{start}-{series.in_name(split)}-seed{seed}"


# ---- the table


def markdown(
    settings: Settings,
    costs: dict[str, dict],
    pretrained: series.Results,
    results: series.Results,
) -> str:
    """A row per network with finished runs: what it costs, and fluid Dice per split and start."""
    kind = series.kind_of_scans(results.values())
    device = costs[settings.networks[0]]["device"]
    lines = [
        f"Fluid Dice pooled over all columns of the validation scans ({kind} scans, at their own "
        "pixels), mean ± sd of the seeds. GMAC (10^9 multiply-adds) and ms: to predict a 496 x "
        f"768 scan at half size on {device}. Parameters include the auxiliary head, which only "
        "training needs.",
        "",
    ]
    splits = []
    for split in settings.splits:
        splits += [f"{split}, from {STARTS[start]}" for start in settings.starts]
    lines += table_head(["network", *COSTS, *splits, "seeds"])
    for network in settings.networks:
        cells = cost_cells(costs[network], pretrained.get(f"pretrain-{network}"))
        lines += row(settings, network, cells, results, "pooled_native")

    # the same within the central columns, which once stood alone
    lines += ["", f"The same within the central columns. {CENTRAL}", ""]
    lines += table_head(["central columns", *splits, "seeds"])
    for network in settings.networks:
        lines += row(settings, network, (), results, "pooled_central")
    return "\n".join(lines) + "\n"


def row(
    settings: Settings, network: str, costs: Sequence[str], results: series.Results, kind: str
) -> list[str]:
    """The line of a network, none without a finished run. kind: pooled scores of results.json."""
    scores = fluid_dice(settings, network, results, kind)
    if not any(scores):
        return []
    cells = [network.replace("-", ", "), *costs]
    cells += [mean_sd(dice) for dice in scores]
    cells.append(fewest_to_most([len(dice) for dice in scores]))
    return [table_line(cells)]


def fluid_dice(
    settings: Settings, network: str, results: series.Results, kind: str
) -> list[list[float]]:
    """Of each split and start, fluid Dice of the seeds that are finished."""
    scores = []
    for split in settings.splits:
        for start in settings.starts:
            names = [run_name(network, start, split, seed) for seed in settings.seeds]
            runs = series.present(results, names)
            scores.append([result[kind]["dice"][1] for result in runs])
    return scores


def cost_cells(cost: dict, pretrained: dict | None) -> Sequence[str]:
    """Cells of the table: million parameters, GMAC, ms, minutes of pretraining."""
    size = f"{cost['parameters'] / 1e6:.2f}"
    work = f"{cost['multiply_adds'] / 1e9:.2f}"
    minutes = f"{pretrained['training_minutes']:.1f}" if pretrained else ""
    return size, work, f"{1e3 * cost['seconds']:.0f}", minutes


if __name__ == "__main__":
    run(main)

"""Which network to choose? The UNet beside the MobileNets: size, time, and fluid found, with and without HRF.

HRF_DATA=FOLDER python experiments/studies/backbones.py  # all runs that have no result yet, then the table
python experiments/studies/backbones.py --networks unet-psp mobilenet_v3_small-lraspp --starts none
python experiments/studies/backbones.py --results experiments/results/backbones --amp bf16 --print

Every network is pretrained on vessels for as many minutes and fine-tuned for as many steps as the others.
Finished runs are files in --results, the pretrained networks stay in --out. An interrupted series continues
where it was.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from dme.common.errors import run
from dme.common.files import write_json
from dme.common.provenance import device_name, provenance
from dme.data.phantom import phantom_bscan
from dme.inference.scan import predict
from dme.nets.folding import folded
from dme.nets.segmenter import Segmenter, build_model, set_classes
from dme.training import series

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from turns import in_turns  # noqa: E402

# backbone, head, and steps of pretraining: about a quarter of an hour on one CPU thread with --amp bf16
NETWORKS = {
    "unet-psp": ("unet", "psp", 1200),
    "mobilenet_v2-fcn": ("mobilenet_v2", "fcn", 560),
    "mobilenet_v2-psp": ("mobilenet_v2", "psp", 780),
    "mobilenet_v2-deeplabv3": ("mobilenet_v2", "deeplabv3", 350),
    "mobilenet_v3_large-lraspp": ("mobilenet_v3_large", "lraspp", 970),
    "mobilenet_v3_small-lraspp": ("mobilenet_v3_small", "lraspp", 1530),
}
STARTS = {"none": "nothing", "hrf": "vessels (HRF)"}
SPLITS = ["paper", "subject:4/5"]
STEPS = 300  # of fine-tuning, fewer than recipe best has of itself: there are 48 runs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which ones (all)")
    add(
        "--starts",
        nargs="+",
        choices=STARTS,
        default=list(STARTS),
        help="where the weights come from (all)",
    )
    add(
        "--splits",
        nargs="+",
        default=SPLITS,
        help=f"splits of finetune.py (default {' '.join(SPLITS)})",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1], help="runs of each (default 0 1)")
    series.add_arguments(parser, "runs/backbones")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pretraining, runs = {}, {}
    for name in args.networks if "hrf" in args.starts else []:
        backbone, head, steps = NETWORKS[name]
        how = f"--backbone {backbone} --heads {head} --steps {steps} --amp {args.amp} --seed 0"
        pretraining[f"pretrain-{name}"] = how.split()
    for seed in args.seeds:
        for split in args.splits:
            for name in args.networks:
                backbone, head, _ = NETWORKS[name]
                for start in args.starts:
                    pretrained = args.out / f"pretrain-{name}" / f"best-{head}.pt"
                    weights = pretrained if start == "hrf" else start
                    network = f"--recipe best --iters {STEPS} --backbone {backbone} --head {head}".split()
                    rest = f"--split {split} --amp {args.amp} --seed {seed}".split()
                    how = [*network, "--weights", str(weights), *rest]
                    runs[run_name(name, start, split, seed)] = how
    pretrained = series.gather(args, pretraining, script="pretrain_hrf.py", may_be_empty=True)
    found = series.gather(args, runs)
    results = series.results_folder(args)
    table = markdown(args, costs(results), pretrained, found)
    series.write_table(args.out / "backbones.md", table)
    print(f"\n{table}\ntable: {args.out / 'backbones.md'}\nruns: {results}")


def run_name(network: str, start: str, split: str, seed: int) -> str:
    return f"{network}-{start}-{series.in_name(split)}-seed{seed}"


def costs(results: Path) -> dict[str, dict]:
    """What `measure` says of NETWORKS; done once, kept in `results`."""
    asked = {"costs": list(NETWORKS)}
    if not series.finished(asked, results):
        models = {
            name: fluid_network(backbone, head) for name, (backbone, head, _) in NETWORKS.items()
        }
        write_json(
            results / "costs.json",
            {"arguments": list(models), **provenance(), "rows": measure(models)},
        )
    return series.finished(asked, results)["costs"]["rows"]


def fluid_network(backbone: str, head: str) -> Segmenter:
    """Fresh, but with classes and size as recipe best leaves them."""
    model = build_model(backbone, head).eval()
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": "half"}
    return model


def measure(models: dict[str, Segmenter]) -> dict[str, dict]:
    """Parameters, and multiply-adds and seconds to predict a 496 x 768 scan, median of 5.

    Predicted as by predict.py, batch norm folded. The networks take turns, so that a busy machine hits all.
    """
    image = phantom_bscan(0).image
    ways = {name: partial(predict, folded(model), image) for name, model in models.items()}
    times, rows = in_turns(ways, repeats=5), {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            ways[name]()
        rows[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "multiply_adds": counter.get_total_flops() // 2,
            "seconds": times[name]["median_s"],
            "device": device_name(),
        }
    return rows


def markdown(
    args: argparse.Namespace,
    costs: dict[str, dict],
    pretrained: dict[str, dict],
    found: dict[str, dict],
) -> str:
    """One row per network with finished runs: what it costs, and fluid Dice per split and start."""
    kind = "SYNTHETIC" if next(iter(found.values()))["data_kind"] == "phantom" else "real"
    columns = [(split, start) for split in args.splits for start in args.starts]
    titles = [f"{split}, from {STARTS[start]}" for split, start in columns]
    lines = [
        f"Fluid Dice pooled over the graded columns of the validation scans ({kind} scans), mean ± sd of "
        "the seeds. GMAC (10^9 multiply-adds) and ms: to predict a 496 x 768 scan at half size on "
        f"{costs[args.networks[0]]['device']}. Parameters include the auxiliary head, which only training "
        "needs.",
        "",
        f"| network | million parameters | GMAC | ms | min on HRF | {' | '.join(titles)} | seeds |",
        "|---" * (6 + len(columns)) + "|",
    ]
    for network in args.networks:
        cells, seeds = [], []
        for split, start in columns:
            names = [run_name(network, start, split, seed) for seed in args.seeds]
            dice = [found[name]["pooled_graded"]["dice"][1] for name in names if name in found]
            cells.append(series.mean_sd(dice))
            seeds.append(len(dice))
        if not any(seeds):
            continue
        cost, made = costs[network], pretrained.get(f"pretrain-{network}")
        size = f"{cost['parameters'] / 1e6:.2f} | {cost['multiply_adds'] / 1e9:.2f}"
        minutes = f"{made['training_minutes']:.1f}" if made else ""
        cells = [network.replace("-", ", "), size, f"{1e3 * cost['seconds']:.0f}", minutes, *cells]
        cells.append(series.fewest_to_most(seeds))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)

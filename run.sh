#!/usr/bin/env bash
# One door to everything: makes .venv on first use, then runs a script with the arguments given.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
torch_version="${TORCH_VERSION:-2.13.0}"

usage() {
    cat <<TEXT
usage: ./run.sh COMMAND [arguments; --help lists a command's own]

  reproduce  the whole study in one command, on a GPU in minutes
  baseline   Table 1: HRF-pretrained networks on B-scans, without fine-tuning
  finetune   fine-tune a network on B-scans to segment fluid or layers, and score it
  table2     Table 2: the study's eleven ways to fine-tune, and ours beside them
  transfer   does pretraining help? fine-tuning from vessels, synthetic scans and nothing
  development  how our recipe was chosen: candidates compared on eyes 1 to 8
  crossval   subject-disjoint cross-validation over the eyes
  graders    the human line: network and second grader beside the first
  layers     retinal layers of eyes not trained on, leaving one eye out
  labels     how many labelled scans it takes, and whether suggest chooses well
  backbones  UNet and MobileNets compared: cost, and fluid Dice with the same budget
  width      how much the width of the network decides
  predict    find fluid or layers in new scans: masks, overlays, measurements, report
  annotate   correct scans in a browser: fluid, boundaries; a folder to train on
  suggest    which scans to label next
  export     a network as one file that runs without dme: ONNX or torch.export
  prepare    the preliminary study of a data set: counts, class balance, splits, pictures
  weights    list, download, verify and convert named checkpoints
  cache      list the caches of scans, or remove them: cache --clear
  pretrain   pretrain networks on fundus vessels (HRF), or score such checkpoints
  bench      measure speed against peers
  test       the test suite

  DME_DATA=FOLDER        B-scans to use (.mat files, or images/ and fluid/); synthetic ones without it
  HRF_DATA=FOLDER        fundus photographs of the HRF set
  DME_CACHE=FOLDER       where caches and downloads go (~/.cache/dme)
  TORCH_VERSION=$torch_version   the PyTorch installed on first use; PYTHON=python3 the interpreter used for it
TEXT
}

# --help of a command, before anything is installed: most need no package to explain themselves, of
# the others it is what stands on top of the script
explain() {
    if [ "$command" = test ]; then
        echo "usage: ./run.sh test [arguments of pytest, such as --slow, -k WORD or a file]"
        exit 0
    fi
    local python="${PYTHON:-python3}" path="$root/experiments/$script"
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    "$python" "$path" --help 2>/dev/null && exit 0
    "$python" -c 'import ast, sys; print(ast.get_docstring(ast.parse(open(sys.argv[1]).read())))' "$path"
    echo "(its options can be listed once it has been installed, by the first use)"
    exit 0
}

# PyTorch and dme, and the extras (of setup.py) given. .venv/installed says what is there: the line
# "torch VERSION", then a line per extra. An extra that a command can do without may fail to install.
install() {
    local marker="$root/.venv/installed" base="torch $torch_version" extra
    local pip=("$root/.venv/bin/python" -m pip install --disable-pip-version-check)
    if [ "$(head -n 1 "$marker" 2>/dev/null)" != "$base" ] || [ ! -x "$root/.venv/bin/dme" ]; then
        echo "first use: installing into $root/.venv ($base): a download of about 0.3 GB, 1.2 GB on the" >&2
        echo "disk; where pip brings PyTorch for NVIDIA GPUs 3 GB, and 7 GB (README: without a GPU)" >&2
        "${PYTHON:-python3}" -m venv "$root/.venv"
        "${pip[@]}" "torch==$torch_version" >&2  # which shows progress
        "${pip[@]}" --quiet -e "$root"
        echo "$base" >"$marker"
    fi
    for extra in "$@"; do
        grep -qx "$extra" "$marker" && continue
        echo "first use: installing what '$command' needs beside it (dme[$extra])" >&2
        if "${pip[@]}" --quiet -e "$root[$extra]"; then
            echo "$extra" >>"$marker"
        elif [ "$extra" != export ] && [ "$extra" != bench ]; then
            return 1
        fi
    done
}

command="${1:-}"
[ $# -gt 0 ] && shift
extras=()
case "$command" in
    predict | annotate | suggest | prepare | weights | cache | baseline) script="$command.py" ;;
    export) script=export.py extras=(export) ;;
    finetune | table2) script="$command.py" extras=(train) ;;
    reproduce) script=reproduce.py extras=(test) ;;
    pretrain) script=pretrain_hrf.py extras=(train) ;;
    transfer | development | crossval | graders | layers | labels | backbones | width) script="studies/$command.py" extras=(train) ;;
    bench)
        script=benchmarks/bench.py extras=(bench)
        if [ "${1:-}" = precision ]; then
            script=benchmarks/precision.py
            shift
        fi
        ;;
    test) script="" extras=(test) ;;
    "" | help | -h | --help) usage; exit 0 ;;
    *) echo "error: unknown command '$command'; ./run.sh lists what there is" >&2; exit 2 ;;
esac
if [ ! -e "$root/.venv/installed" ]; then
    for argument in "$@"; do
        case "$argument" in -h | --help) explain ;; esac
    done
fi
install ${extras[@]+"${extras[@]}"}  # bash before 4.4 minds an empty array
if [ "$command" = test ]; then
    cd "$root"
    exec .venv/bin/python -m pytest "$@"
fi
exec "$root/.venv/bin/python" "$root/experiments" "$root/experiments/$script" "$@"

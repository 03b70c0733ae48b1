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
  layers     retinal layers of eyes not trained on, leaving one eye out
  backbones  UNet and MobileNets compared: cost, and fluid Dice with the same budget
  predict    find fluid or layers in new scans: masks, overlays, measurements, report
  export     a network as one file that runs without dme: ONNX or torch.export
  prepare    the preliminary study of a data set: counts, class balance, splits, pictures
  weights    list, download, verify and convert named checkpoints
  pretrain   pretrain networks on fundus vessels (HRF), or score such checkpoints
  bench      measure speed against peers
  test       the test suite

  DME_DATA=FOLDER        B-scans to use (.mat files, or images/ and fluid/); synthetic ones without it
  HRF_DATA=FOLDER        fundus photographs of the HRF set
  DME_CACHE=FOLDER       where caches and downloads go (~/.cache/dme)
  TORCH_VERSION=$torch_version   the PyTorch installed on first use; PYTHON=python3 the interpreter used for it
TEXT
}

install() {
    local wanted="torch $torch_version"
    [ "$(cat "$root/.venv/installed" 2>/dev/null)" = "$wanted" ] && return
    echo "first use: installing into $root/.venv ($wanted)" >&2
    "${PYTHON:-python3}" -m venv "$root/.venv"
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$torch_version"
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root"
    echo "$wanted" >"$root/.venv/installed"
}

command="${1:-}"
[ $# -gt 0 ] && shift
case "$command" in
    reproduce | baseline | finetune | table2 | predict | export | prepare | weights) script="$command.py" ;;
    pretrain) script=pretrain_hrf.py ;;
    transfer | development | crossval | layers | backbones) script="studies/$command.py" ;;
    bench) script=benchmarks/bench.py ;;
    test) script= ;;
    "" | help | -h | --help) usage; exit 0 ;;
    *) echo "error: unknown command '$command'; ./run.sh lists what there is" >&2; exit 2 ;;
esac
install
if [ "$command" = test ]; then
    cd "$root"
    exec .venv/bin/python -m pytest "$@"
fi
exec "$root/.venv/bin/python" "$root/experiments/$script" "$@"

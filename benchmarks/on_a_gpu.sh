#!/usr/bin/env bash
# What torchsk does on a GPU: its tests of devices, and the benchmarks. Eight minutes, no network.
#
#   benchmarks/on_a_gpu.sh [DEVICE [WHEELS [RESULTS]]]
#
# DEVICE is torch's name of it ("cuda" if left out). WHEELS is a folder of wheels for what the
# machine's Python lacks (scikit-learn >= 1.9, skorch and what they need); made before, with
# `pip download --no-deps -d WHEELS NAME ...` for that Python. RESULTS is a folder for what is
# measured. PYTHON names the interpreter whose torch sees the device.
#
# To try it where there is no GPU: REHEARSE=1 benchmarks/on_a_gpu.sh simulated
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
device=${1:-cuda}
wheels=${2:-}
results=${3:-$(mktemp -d)}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# the plugins of that machine, and what its libraries deprecate, are not ours
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
pytest=("$python" -m pytest -q -p no:cacheprovider -W default -m device)
mkdir -p "$results"
failures=0

if [[ -n $wheels ]]; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-cache-dir --target "$site" "$wheels"/*.whl || exit 1
    export PYTHONPATH="$site:$PYTHONPATH"
fi

# step SECONDS NAME COMMAND: what takes longer, or fails, leaves the others their turn
step() {
    local seconds=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" 2>&1 | tee "$results/$name.log" || {
        echo "== $name ended with status $?"
        failures=$((failures + 1))
    }
}

if [[ -n ${REHEARSE:-} ]]; then
    export TORCHSK_DEVICE=simulated
    step 300 tests "${pytest[@]}" -k "every_loss or dropout" tests
    step 100 devices "$python" benchmarks/devices.py --rehearse --runs 1 --device "$device" --out "$results"
else
    step 20 machine nvidia-smi
    step 200 devices "$python" benchmarks/devices.py --device "$device" --out "$results"
    step 120 tests "${pytest[@]}" tests
    step 60 grid_search "$python" benchmarks/grid_search.py --runs 1 --only "(15)" --device "$device" --out "$results"
    step 60 single_fit "$python" benchmarks/single_fit.py --runs 1 --only "(512, 512)" --device "$device" --out "$results"
fi
echo "== results in $results; steps that failed: $failures"
exit $((failures > 0))

"""What the benchmarks share: interleaved runs, medians, the state of the machine, tables."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import sklearn
import torch

RESULTS = Path(__file__).parent / "results"


def parse_arguments(description: str, n_runs: int) -> argparse.Namespace:
    """Return the command line: how often to run, which cases, where to write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=n_runs, help="interleaved runs of each")
    parser.add_argument("--only", default="", help="run the cases whose name holds this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and PNG")
    parser.add_argument("--device", default="cpu", help="where torchsk computes")
    return parser.parse_args()


def interleave(
    functions: dict[str, Callable[[], object]], n_runs: int, repeats: int = 1, warm_up: bool = True
) -> dict[str, float]:
    """Run all functions in turn, n_runs times after a warm-up; return median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(n_runs + warm_up):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            if run >= warm_up:
                seconds[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in seconds.items()}


def processor_seconds(function: Callable[[], object]) -> float:
    """Return what a function takes of all cores: of this process, and of its workers' on Linux."""
    import psutil

    def used() -> float:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    start = used()
    function()
    return used() - start


def kilobytes(name: str) -> int:
    """Return what Linux says of this process: memory now (VmRSS) or at most so far (VmHWM).

    getrusage would begin with the peak of the process that has started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> dict[str, str | int | float]:
    """Return what a figure depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "processor": processor(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 0,
        "torch threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def print_table(columns: list[str], rows: list[list[object]]) -> None:
    """Print rows under their columns; the first one is text."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        print("  ".join([first, *others]), flush=True)


def draw_seconds(results: list[dict], labels: list[str], height: float, path: Path) -> None:
    """Save bars of the seconds of each competitor, one group per result, light for one process."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = {"torchsk, 1 process": "moccasin", "torchsk, 2 processes": "tab:orange"}
    figure, ax = plt.subplots(figsize=(9, height), layout="constrained")
    for i, competitor in enumerate(results[0]["seconds"]):
        positions = [row + (i - 1) * 0.26 for row in range(len(results))]
        times = [result["seconds"].get(competitor, float("nan")) for result in results]
        color = colors.get(competitor, "0.65")
        bars = ax.barh(positions, times, height=0.26, label=competitor, color=color)
        ax.bar_label(bars, fmt="%.1f s", padding=2)
    ax.set_yticks(range(len(results)), labels)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set_xlabel("seconds")
    ax.legend()
    figure.savefig(path, dpi=110)


def save(name: str, results: object, out: Path, before: dict) -> None:
    """Write results and the machine's state before and after as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    content = {"machine": before, "load after": machine()["load"], "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"saved {path}")

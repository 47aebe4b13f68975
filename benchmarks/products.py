"""Products of matrices: MKL against oneDNN, in float32 and in bfloat16, alone and stacked.

GFLOP/s on one thread, medians, for the shapes of a layer's products: a batch through a layer, and
the gradient of its weights. The last line says which kernel torchsk takes for large products on
this processor, and which was the fastest: a row of the table in `torchsk/_matmul.py` is chosen by
it. "medium" is torch's own product after ``torch.set_float32_matmul_precision("medium")``.
"""

import statistics

import torch
from _harness import interleave, machine, parse_arguments, print_table, save
from threadpoolctl import threadpool_limits

from torchsk import _matmul

#: rows of a batch, inputs, units, models in the stack (1: alone)
SHAPES = {
    "batch 32, 30 -> 15": (32, 30, 15, 1),
    "batch 32, 30 -> 15, stack of 24": (32, 30, 15, 24),
    "batch 200, 64 -> 100": (200, 64, 100, 1),
    "batch 200, 64 -> 100, stack of 24": (200, 64, 100, 24),
    "batch 128, 256 -> 256": (128, 256, 256, 1),
    "batch 128, 256 -> 256, stack of 24": (128, 256, 256, 24),
    "batch 256, 512 -> 512": (256, 512, 512, 1),
    "batch 512, 1024 -> 1024": (512, 1024, 1024, 1),
}
KERNELS = ("MKL", "oneDNN", "medium")


def competitors(n_rows, n_inputs, n_units, n_models):
    """Return name -> function that does the products of a layer, forward and gradient."""
    lead = () if n_models == 1 else (n_models,)
    X, W = torch.randn(*lead, n_inputs, n_rows), torch.randn(*lead, n_units, n_inputs)
    delta = torch.randn(*lead, n_units, n_rows)
    out, gradient = torch.empty_like(delta), torch.empty_like(W)
    multiply = torch.mm if n_models == 1 else torch.bmm

    def in_torch():
        multiply(W, X, out=out)
        multiply(delta, X.mT, out=gradient)

    def in_onednn():
        _matmul._onednn(W, X.mT)
        _matmul._onednn(delta, X)

    def in_bfloat16():
        torch.set_float32_matmul_precision("medium")
        in_torch()
        torch.set_float32_matmul_precision("highest")

    functions = {"MKL": in_torch, "oneDNN": in_onednn, "medium": in_bfloat16}
    if n_models > 1:
        del functions["oneDNN"]  # it has no stacks
    return functions


def main():
    """Measure, print, save."""
    arguments = parse_arguments(__doc__.splitlines()[0], n_runs=15)
    results = {}
    with threadpool_limits(1):
        torch.set_num_threads(1)
        before = machine()
        print(before, _matmul._processor())
        for name, shape in SHAPES.items():
            if arguments.only not in name:
                continue
            n_flops = 4 * shape[0] * shape[1] * shape[2] * shape[3]
            repeats = max(1, int(2e8 / n_flops))
            seconds = interleave(competitors(*shape), arguments.runs, repeats)
            results[name] = {kernel: n_flops / s / 1e9 for kernel, s in seconds.items()}
    rows = [
        [name, *(f"{speeds[k]:.1f}" if k in speeds else "" for k in KERNELS)]
        for name, speeds in results.items()
    ]
    print_table(["GFLOP/s", *KERNELS], rows)
    large = [s for name, s in results.items() if SHAPES[name][3] == 1 and SHAPES[name][1] >= 256]
    if large:
        gain = statistics.median(speeds["oneDNN"] / speeds["MKL"] for speeds in large)
        taken = "oneDNN" if _matmul._ONEDNN_SIZE < float("inf") else "MKL"
        print(f"oneDNN has {gain:.2f} times the speed of MKL on large products; taken: {taken}")
    save("products", results, arguments.out, before)


if __name__ == "__main__":
    main()

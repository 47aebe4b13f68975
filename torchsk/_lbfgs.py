"""Training by L-BFGS: all rows at once, in float64, one model."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import ThreadpoolController

from torchsk._jobs import TrainingCancelled, TrainingJob, TrainingResult
from torchsk._mlp import Network
from torchsk._stopping import DIVERGED

# rows evaluated at a time, in numbers of all their layers (8 MB of float64)
BLOCK_SIZE = 1_000_000


class _ToldToStop(Exception):
    """A callback has asked to end the minimisation."""


def train_lbfgs(
    job: TrainingJob, should_stop: Callable[[], bool] | None
) -> TrainingResult | Exception:
    """Minimise the penalised mean loss of all rows, in float64."""
    n_rows, n_evaluated = job.X.n_rows, 0
    latest = np.array(job.flat, dtype=np.float64)
    weight = None if job.weight is None else job.weight.double()
    total = float(n_rows) if weight is None else float(weight.sum())
    step = max(1, BLOCK_SIZE // sum(job.spec.layer_sizes))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).to(job.device, job.dtype)
        gradient = torch.zeros_like(weights)
        part = torch.empty_like(weights)
        network, gradients = Network(job.spec, weights), Network(job.spec, part)
        loss = 0.0
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
            X = (
                job.X.all()
                if step >= n_rows
                else job.X.take(torch.arange(rows.start, rows.stop, device=job.device))
            )
            out = torch.empty(job.head.n_outputs, len(X), dtype=job.dtype, device=job.device)
            tape = network.forward(X.mT, [None] * len(job.spec.activations), out)
            raw = out.mT
            losses = job.head.loss(raw, job.target[rows])
            delta = job.head.residual(raw, job.target[rows])
            if weight is not None:
                losses, delta = losses * weight[rows], delta * weight[rows].unsqueeze(1)
            loss += float(losses.sum()) / total
            network.backward(delta.div_(total).mT, tape, gradients)
            gradient += part
        coefs = weights[: job.spec.n_coefs]
        gradient[: job.spec.n_coefs] += coefs * (job.alpha / total)
        loss += 0.5 * job.alpha * float(coefs @ coefs) / total
        return loss, gradient.cpu().numpy().astype(np.float64)

    def reported(flat: np.ndarray, loss: float) -> float:
        """Return the loss in the unit of `loss_`: a mean over outputs where the head takes one."""
        penalty = 0.5 * job.alpha * float(np.square(flat[: job.spec.n_coefs]).sum()) / total
        return (float(loss) - penalty) * job.head.loss_scale + penalty

    def after_iteration(flat: np.ndarray) -> None:
        nonlocal n_evaluated, latest
        if should_stop is not None and should_stop():
            raise TrainingCancelled
        n_evaluated, latest = n_evaluated + 1, flat.copy()
        if job.verbose:
            loss = reported(flat, objective(flat)[0])
            print(f"Iteration {n_evaluated}, loss = {loss:.8f}")
        if job.on_epoch is not None and job.on_epoch(job.progress, lambda: latest):
            raise _ToldToStop

    interrupted = False
    with torch.no_grad():
        try:
            found = minimize_lbfgs(
                objective,
                latest,
                max_iter=job.max_iter,
                max_fun=job.max_fun,
                tol=job.tol,
                callback=after_iteration,
            )
            flat, n_iter, loss = found.x, min(found.nit, job.max_iter), reported(found.x, found.fun)
            warning = (
                None
                if found.status == 0
                else (
                    f"lbfgs failed to converge after {n_iter} iteration(s) "
                    f"(status={found.status}):\n{found.message}\n\nIncrease "
                    f"max_iter={job.max_iter} or max_fun={job.max_fun}, or scale the data "
                    "(standardize=True)."
                )
            )
        except (KeyboardInterrupt, _ToldToStop) as ending:
            interrupted = isinstance(ending, KeyboardInterrupt)
            flat, n_iter, warning = latest, n_evaluated, None
            loss = reported(flat, objective(flat)[0])
    if not (math.isfinite(loss) and np.isfinite(flat).all()):
        return ValueError(DIVERGED.format(epoch=n_iter))
    return TrainingResult(flat, job.progress, n_iter, None, loss, warning, interrupted)


def minimize_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    flat: np.ndarray,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    callback: Callable[[Any], None] | None = None,
) -> scipy.optimize.OptimizeResult:
    """Minimise objective(flat) -> (loss, gradient) with scipy's L-BFGS-B (Zhu et al. 1997)."""
    # scipy's own vector operations are too small for the threads of its OpenBLAS
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        return scipy.optimize.minimize(
            objective,
            flat,
            method="L-BFGS-B",
            jac=True,
            callback=callback,
            options={"maxiter": max_iter, "maxfun": max_fun, "gtol": tol},
        )

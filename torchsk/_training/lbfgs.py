"""Training by L-BFGS: all rows at once, in float64, one network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from torchsk._data import chunks
from torchsk._models import Model
from torchsk._runtime import threads_for, without_autocast, without_autograd
from torchsk._sparse import network_class
from torchsk._training.jobs import Lane, TrainingCancelled, TrainingJob, TrainingResult
from torchsk._training.run import Run

# rows evaluated at a time, in numbers of all their layers (8 MB of float64)
BLOCK_SIZE = 1_000_000
# scipy's status of a run that max_iter or max_fun has ended
OUT_OF_ITERATIONS = 1


@dataclass(frozen=True)
class LbfgsLane(Lane):
    """Minimises the penalised mean loss of all rows; no epochs, no held-out rows, no dropout."""

    solver: str

    has_epochs = False
    ways_to_converge = "Raise alpha, or scale the data (standardize=True)."
    multiplies_sparse = True
    dtype = torch.float64

    @property
    def key(self) -> str:
        """The solver, which remembers nothing."""
        return self.solver

    def train(
        self, jobs: Sequence[TrainingJob], should_stop: Callable[[], bool] | None = None
    ) -> list[TrainingResult | Exception]:
        """Train each job."""
        return [self._train(job, should_stop) for job in jobs]

    def _train(self, job: TrainingJob, should_stop: Callable[[], bool] | None) -> TrainingResult:
        size = job.rows.n_rows * job.model.n_multiply_adds
        with threads_for(size, job.device), without_autocast(job.device):
            return _Minimisation(job).run(should_stop)


class _ToldToStop(Exception):
    """A callback has asked to end the minimisation."""


class _Minimisation:
    """The run of one job."""

    def __init__(self, job: TrainingJob):
        self.job, self.narrowing = job, job.model.narrowing
        self.spec = self.narrowing.spec
        self.network_class = network_class(job.rows.X)
        self.weight, self.total = job.rows.weight, float(job.rows.n_rows)
        if self.weight is not None:
            self.total = float(self.weight.sum())
        self.penalty = job.settings.alpha / self.total + job.settings.penalty
        #: weights after the last iteration
        self.flat = self.network_class.arranged(
            self.spec, self.narrowing.take(np.array(job.model.flat, dtype=np.float64))
        )
        self.n_iterations = 0

    def run(self, should_stop: Callable[[], bool] | None) -> TrainingResult:
        """Minimise until it ends."""
        job = self.job
        run = Run(job, lambda: self.flat.copy(), lambda: bool(np.isfinite(self.flat).all()))
        warning = None

        def after_iteration(flat: np.ndarray) -> None:
            if should_stop is not None and should_stop():
                raise TrainingCancelled
            self._record(flat)

        try:
            found = minimize_lbfgs(
                self.loss_and_gradient,
                self.flat,
                max_iter=job.settings.max_iter,
                max_fun=job.settings.max_fun,
                tol=job.settings.tol,
                callback=after_iteration,
            )
            self.flat, run.n_iter = found.x, min(found.nit, job.settings.max_iter)
            loss = self.reported(found.x, found.fun)
            is_done = job.schedule.is_fixed and found.nit >= job.settings.max_iter
            if found.status != 0 and not is_done:
                warning = self._warning(found, run.n_iter)
        except KeyboardInterrupt as interrupt:
            run.interrupt(interrupt)
        except _ToldToStop:
            run.ending = "stop"
        if run.ending is not None:
            run.n_iter = self.n_iterations
            loss = self.reported(self.flat, self.loss_and_gradient(self.flat)[0])
        if not math.isfinite(loss):
            run.ending = "diverged"
        run.best_weights()  # none are kept: it raises if the last are not finite
        return run.result(self._model(), loss=loss, warning=warning)

    def _model(self) -> Model:
        """Return the model as it is now."""
        flat = self.network_class.restored(self.spec, self.flat)
        return self.job.model.trained(self.narrowing.put(flat))

    def loss_and_gradient(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the penalised mean loss of all rows and its gradient, some rows at a time."""
        with without_autograd(self.job.calls_user):
            return self._loss_and_gradient(flat)

    def _loss_and_gradient(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        job, weight = self.job, self.weight
        weights = torch.from_numpy(flat).to(job.device, job.lane.dtype)
        gradient, part = torch.zeros_like(weights), torch.empty_like(weights)
        network = self.network_class(self.spec, weights)
        gradients = self.network_class(self.spec, part)
        no_masks = [None] * len(self.spec.activations)
        loss = 0.0
        row_size = job.rows.X.row_size + sum(self.spec.row_sizes)
        for rows in chunks(job.rows.n_rows, row_size, BLOCK_SIZE):
            X, target = job.rows.X.part(rows), job.rows.target[rows]
            out = weights.new_empty(job.head.n_outputs, len(target))
            tape = network.forward([X] if network.takes_tables else X.mT, no_masks, out)
            losses = job.head.loss(out.mT, target)
            delta = job.head.residual(out.mT, target)
            if weight is not None:
                losses, delta = losses * weight[rows], delta * weight[rows].unsqueeze(1)
            loss += float(losses.sum()) / self.total
            network.backward(delta.div_(self.total).mT, tape, gradients)
            gradient += part
        coefs, n_coefs = weights[: self.spec.n_coefs], self.spec.n_coefs
        gradient[:n_coefs] += coefs * self.penalty
        loss += 0.5 * self.penalty * float(coefs @ coefs)
        return loss, gradient.cpu().numpy().astype(np.float64)

    def reported(self, flat: np.ndarray, loss: float) -> float:
        """Return the loss in the unit of `loss_`: a mean over outputs where the head takes one."""
        coefs = flat[: self.spec.n_coefs]
        penalty = 0.5 * self.penalty * float(np.square(coefs).sum())
        return (float(loss) - penalty) * self.job.head.loss_scale + penalty

    def _record(self, flat: np.ndarray) -> None:
        """Take note of an iteration; raise if a callback asks to end."""
        job = self.job
        self.n_iterations, self.flat = self.n_iterations + 1, flat.copy()
        if job.settings.verbose:
            loss = self.reported(flat, self.loss_and_gradient(flat)[0])
            print(f"Iteration {self.n_iterations}, loss = {loss:.8f}")
        if job.on_epoch is not None and job.on_epoch(self._model):
            raise _ToldToStop

    def _warning(self, found: scipy.optimize.OptimizeResult, n_iter: int) -> ConvergenceWarning:
        settings = self.job.settings
        ways = f"Increase max_iter={settings.max_iter} or max_fun={settings.max_fun}"
        if found.status != OUT_OF_ITERATIONS:
            ways = f"No better weights were found nearby: raise tol={settings.tol:g} or alpha"
        return ConvergenceWarning(
            f"lbfgs failed to converge after {n_iter} iteration(s) (status={found.status}):\n"
            f"{found.message}\n\n{ways}, or scale the data (standardize=True)."
        )


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

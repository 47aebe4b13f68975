"""From checked rows to one job: start or go on, split, merge, scale, and choose who trains it."""

import copy
import re
import warnings
from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.random.bit_generator import ISeedSequence
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.utils import check_random_state

from torchsk import _defaults
from torchsk._data import Data, is_mapped, merge_duplicates
from torchsk._embedding import ColumnValues
from torchsk._heads import Head
from torchsk._hints import suggesting
from torchsk._inputs import check_ids
from torchsk._mlp import Reexpression, draw_weights
from torchsk._models import Fitted, MLPModel, Model, output_dtype
from torchsk._modules import ModuleModel
from torchsk._optimizers import class_of
from torchsk._parameters import Settings, check_scoring_name, make_spec
from torchsk._rows import Examples, MappedRows, as_rows, as_tensor, as_weight
from torchsk._runtime import BUILDS, exact_dtype, resolve_device
from torchsk._schedules import make_schedule
from torchsk._solvers import is_scheduled
from torchsk._standardizer import Moments, Squares, Standardizer
from torchsk._targets import Labels, Targets
from torchsk._training import Lane, Progress, SolverState, TrainingJob, Validation, lane_of

# up to this many rows, and with batches by our rule, duplicates are merged: k repeats = weight k
MAX_ROWS_TO_MERGE = 1000


def make_job(
    estimator: Any,
    data: Data,
    held_out: Data | None,
    targets: Targets,
    head: Head,
    before: Fitted | None,
    *,
    incremental: bool,
) -> TrainingJob:
    """Return the job of one call of fit, or (incremental) of partial_fit.

    Parameters
    ----------
    estimator : TorchClassifier or TorchRegressor
        Its parameters say how to train.
    data, held_out : Data
        Rows to train on, and rows that the user holds out.
    targets : Targets
    head : Head
    before : Fitted or None
        What the last call left, if this one goes on from there.
    incremental : bool
        Whether this is a call of partial_fit: one epoch of a run that has no end.
    """
    check_scoring_name(estimator.scoring)
    _check_embedding(estimator, data, held_out)
    lane = choose_lane(estimator, targets)
    device = _choose_device(estimator, lane)
    rng = _generator(estimator.random_state)
    early_stopping = bool(estimator.early_stopping and lane.has_epochs and not incremental)
    model = _start(estimator, data, head, rng, before, str(device), incremental)
    if not lane.has_epochs and (model.mixes_rows or held_out is not None):
        what = "dropout" if model.mixes_rows else "X_val and y_val"
        warnings.warn(f"solver={estimator.solver!r} makes no use of {what}.")
    is_split = early_stopping and held_out is None
    if is_split:
        data, held_out = _split(data, estimator.validation_fraction, targets, rng)
    n_rows = len(data)
    if head.per_sample and not is_split and _merges_duplicates(estimator, data, model):
        data = merge_duplicates(data)
    progress = _progress(estimator, targets, held_out, before, early_stopping)
    n_known = len(data) + (progress.n_samples_seen if incremental else 0)
    settings = Settings.of(
        estimator, len(data), data.X.shape[1], n_known=n_known, has_epochs=lane.has_epochs,
        early_stopping=early_stopping, incremental=incremental, is_embedded=model.embeds,
    )  # fmt: skip
    if estimator.dropout == "auto" and lane.has_epochs:
        model = model.with_dropout(partial(_defaults.dropout, n_known, data.X.shape[1]))
    change = None
    if before is None and _standardizes(estimator, data):
        model = _with_scalers(model, data)
    elif incremental and _standardizes(estimator, data):
        model, change = _follow(model, data)
    head = model.head
    if model.y_scaler is not None:
        head = head.standardized(*model.y_scaler.known)
    job = TrainingJob(
        lane=lane,
        model=model,
        head=head,
        rows=_examples(data, model, head, lane, device),
        settings=settings,
        schedule=make_schedule(
            _schedule_name(estimator, incremental),
            settings.learning_rate_init,
            power_t=estimator.power_t,
            max_iter=estimator.max_iter,
            scheduled=is_scheduled(estimator.solver),
        ),
        progress=progress,
        rng=rng,
        device=device,
        n_rows_counted=n_rows,
    )
    if incremental and before is not None and before.state is not None:
        _resume(job, before.state, change)
    if held_out is not None and lane.has_epochs:
        rows = _examples(held_out, model, head, lane, device, "_val")
        job.validation = Validation(rows, _score(estimator, model, targets, progress, held_out))
    return job


class _NoEntropy(ISeedSequence):
    """Words for a generator that is seeded afterwards."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return array("I", [1]) * n_words  # numpy reads it number by number, faster than its own


def _generator(random_state: Any) -> np.random.RandomState:
    """Return scikit-learn's generator of a `random_state`, of an integer in a tenth of the time.

    numpy stirs 624 words of the system's for every generator, even for one that is seeded.
    """
    if not isinstance(random_state, Integral):
        return check_random_state(random_state)
    rng = np.random.RandomState(np.random.MT19937(_NoEntropy()))  # type: ignore[arg-type]
    rng.seed(int(random_state))
    return rng


def _progress(
    estimator: Any,
    targets: Targets,
    held_out: Data | None,
    before: Fitted | None,
    early_stopping: bool,
) -> Progress:
    """Return the record to go on with, which knows what decides in this call."""
    progress = Progress(early_stopping) if before is None else before.progress.copy()
    is_loss = isinstance(estimator.scoring, str) and estimator.scoring == "loss"
    is_constant = held_out is not None and targets.is_constant(held_out.y)
    progress.watch(early_stopping, is_loss or is_constant)
    return progress


def _schedule_name(estimator: Any, incremental: bool) -> Any:
    """Return the schedule's name, or a callable; partial_fit has no end to come down to."""
    schedule = estimator.learning_rate
    if class_of(schedule) is not None or (incremental and schedule == "onecycle"):
        return "constant"
    return schedule


def _merges_duplicates(estimator: Any, data: Data, model: Model) -> bool:
    """Return whether equal rows count as one of more weight: where neither order nor n is given."""
    is_mixed = model.mixes_rows and model.dropout is None
    return (
        estimator.batch_size == "auto"
        and len(data) <= MAX_ROWS_TO_MERGE
        and bool(estimator.shuffle)
        and not is_mixed
    )


def choose_lane(estimator: Any, targets: Targets) -> Lane:
    """Return skorch's lane if the network, or something of torch's or skorch's, needs it."""
    if (
        estimator.module is None
        and estimator.skorch_callbacks is None
        and not callable(estimator.solver)
        and class_of(estimator.learning_rate) is None
    ):
        return lane_of(estimator.solver)
    from torchsk._skorch import SkorchLane

    classes, callbacks = getattr(targets, "classes", None), estimator.skorch_callbacks or ()
    n_classes = None if classes is None else len(classes)
    return SkorchLane(estimator.solver, estimator.learning_rate, callbacks, n_classes)


def _choose_device(estimator: Any, lane: Lane) -> torch.device:
    """Return the device, if it is here and has the dtype of the lane."""
    with suggesting(estimator.device, ["auto", "cpu", *BUILDS]):
        device = resolve_device(estimator.device)
    if exact_dtype(device) != torch.float64 and lane.dtype == torch.float64:
        raise ValueError(
            f"device must be one that has float64 for solver={estimator.solver!r}; "
            f"got device={estimator.device!r}."
        )
    return device


def _start(
    estimator: Any,
    data: Data,
    head: Head,
    rng: np.random.RandomState,
    before: Fitted | None,
    device: str,
    incremental: bool,
) -> Model:
    """Return the network with its starting weights: drawn, or those of the last call."""
    last = None if before is None else before.model
    if estimator.module is not None:
        return ModuleModel.start(
            estimator.module, estimator.module_params, data.X, head, rng, last, device
        )
    head = head.on_logits
    spec = make_spec(
        estimator.hidden_layer_sizes, estimator.activation, estimator.dropout,
        estimator.numerical_embedding, data.X.shape[1], head.n_outputs,
    )  # fmt: skip
    if last is None:
        values = None if spec.embedding is None else _column_values(data, None, incremental)
        narrowing = spec.narrowed(None if values is None else values.are_numeric)
        flat = draw_weights(narrowing.spec, estimator.init, rng, estimator.activation)
        flat = narrowing.put(flat)
        return MLPModel(head, None, None, output_dtype(data.X), device, spec, flat, values)
    if isinstance(last, MLPModel) and spec.embedding != last.spec.embedding:
        raise ValueError(
            "numerical_embedding must be what it was at the first fit to train on; got "
            f"numerical_embedding={estimator.numerical_embedding!r}."
        )
    if not isinstance(last, MLPModel) or spec.layer_sizes != last.spec.layer_sizes:
        fitted = last.spec.layer_sizes if isinstance(last, MLPModel) else "a module"
        raise ValueError(
            "hidden_layer_sizes and the number of outputs must be those of the fitted model to "
            f"train on; got layers {spec.layer_sizes}, fitted {fitted}."
        )
    model = replace(last, spec=spec, head=head, device=device)
    if model.values is None:
        return model
    return model.embedding_more(_column_values(data, model.values, incremental), rng)


def _check_embedding(estimator: Any, data: Data, held_out: Data | None) -> None:
    """Raise unless there is no embedding, or a built-in network and dense rows to embed."""
    if estimator.numerical_embedding is None:
        return
    where, way = "", ""
    if estimator.module is not None:
        where, way = "with module", "embed columns in the module"
    elif sp.issparse(data.X) or (held_out is not None and sp.issparse(held_out.X)):
        where, way = "where X is sparse, for cosines leave no zeros", "give X.toarray()"
    if where:
        raise ValueError(
            f"numerical_embedding must be None {where}; got "
            f"numerical_embedding={estimator.numerical_embedding!r}: {way}."
        )


def _column_values(data: Data, before: ColumnValues | None, incremental: bool) -> ColumnValues:
    """Return what the rows so far show of their columns; rows of weight zero show nothing."""
    X = data.X if data.weight is None else data.take(np.flatnonzero(data.weight)).X
    return ColumnValues.of(X, goes_on=incremental) if before is None else before.with_rows(X)


def _split(
    data: Data, fraction: float, targets: Targets, rng: np.random.RandomState
) -> tuple[Data, Data]:
    """Return (training rows, validation rows), split as scikit-learn's MLP does."""
    if not fraction:
        raise ValueError(
            "validation_fraction must be in (0, 1) with early_stopping and without X_val; "
            f"got validation_fraction={fraction!r}."
        )
    train, validation = targets.split(data.y, fraction, rng)
    if len(validation) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of "
            "your dataset."
        )
    training, held_out = data.take(train), data.take(validation)
    for part, name in ((training, "training"), (held_out, "validation")):
        if part.weight is not None and not part.weight.any():
            raise ValueError(
                f"sample_weight must not be all zero in the {name} rows of early_stopping."
            )
    return training, held_out


def _standardizes(estimator: Any, data: Data) -> bool:
    """Return whether inputs, and targets where the loss allows it, are standardised."""
    if estimator.standardize == "auto":
        return estimator.module is None
    if estimator.standardize and len(data.X.shape) > 2:
        raise ValueError(
            "standardize must be False or 'auto' where X has more than two axes; got "
            f"standardize=True and X of shape {data.X.shape}: flatten X, scale it before, or let "
            "the module do it (nn.BatchNorm2d)."
        )
    return bool(estimator.standardize)


def _with_scalers(model: Model, data: Data) -> Model:
    """Return the model with the scalers of its first rows."""
    x_scaler, y_scaler = Standardizer.fit(data.X, data.weight), None
    if model.head.equivariant:
        _check_range(data.y, model)
        measure = model.head.measure or Squares
        y_scaler = _y_scaler(model.head, Moments.of(data.y, data.weight, "y", measure))
    return replace(model, x_scaler=x_scaler, y_scaler=y_scaler)


def _follow(model: Model, data: Data) -> tuple[Model, Reexpression | None]:
    """Return (the model whose scalers know these rows too, what that did to its weights)."""
    x_scaler, y_scaler = model.x_scaler, model.y_scaler
    if not model.follows or x_scaler is None or x_scaler.moments is None:
        return model, None
    x_scaler = x_scaler.with_rows(data.X, data.weight)
    if y_scaler is not None and y_scaler.moments is not None:
        _check_range(data.y, model)
        measure = model.head.measure or Squares
        moments = y_scaler.moments.with_rows(data.y, data.weight, "y", measure)
        y_scaler = _y_scaler(model.head, moments)
    return model.rescaled(x_scaler, y_scaler)


def _y_scaler(head: Head, moments: Moments) -> Standardizer:
    """Return what standardises y as a head needs it."""
    return Standardizer(*head.standardization(moments.mean, moments.deviation), moments)


def _check_range(y: np.ndarray, model: Model) -> None:
    """Raise unless predictions of the size of y can be returned."""
    if abs(y).max() > np.finfo(model.dtype).max:
        raise ValueError(
            f"y must be within the range of {model.dtype}, the dtype of X, in which "
            "predictions are returned: scale it, or give X as float64."
        )


def _examples(
    data: Data, model: Model, head: Head, lane: Lane, device: torch.device, suffix: str = ""
) -> Examples:
    """Return rows as training takes them; a suffix marks those that are held out."""
    y = data.y if model.y_scaler is None else model.y_scaler.transform(data.y)
    target = head.encode(y)
    name, x_dtype = "X" + suffix, lane.dtype
    if model.takes_ids:
        check_ids(data.X, name)
        x_dtype = torch.int64
    if lane.reads_files and is_mapped(data.X):
        X: Any = MappedRows(data.X, model.x_scaler, device, x_dtype)
    else:
        X = as_rows(
            data.X, model.x_scaler, device, x_dtype, name, may_stay_sparse=lane.multiplies_sparse
        )
    # rounded weights would make one of two equal validation scores the better one
    dtype = exact_dtype(device) if suffix else lane.dtype
    return Examples(
        X,
        torch.from_numpy(target).to(device)
        if target.dtype.kind == "i"
        else as_tensor(target, None, device, lane.dtype, "y" + suffix),
        None if data.weight is None else as_weight(data.weight, device, dtype),
    )


def _resume(job: TrainingJob, state: SolverState, change: Reexpression | None) -> None:
    """Go on with what the solver remembers, if the same lane has left it."""
    if state.key == job.lane.key:
        job.state = state if change is None else job.lane.reexpress(state, change)
        job.schedule.resume(state.epoch, state.rate, job.progress.n_samples_seen)


def _score(
    estimator: Any, model: Model, targets: Targets, progress: Progress, held_out: Data
) -> Callable[[Model], float] | None:
    """Return how held-out rows are scored: by a user's scorer, or (None) by the head."""
    if estimator.scoring is None or estimator.scoring == "loss":
        return None
    fitted = copy.copy(estimator)
    fitted.__dict__.pop("feature_names_in_", None)
    fitted._fitted = Fitted(model, targets, progress)
    scorer = check_scoring(fitted, estimator.scoring)
    X, y = held_out.X[:], targets.decode(held_out.y)
    weights = {} if held_out.weight is None else {"sample_weight": held_out.weight}

    def score(trained: Model) -> float:
        fitted._fitted = Fitted(trained, targets, progress)
        try:
            return scorer(fitted, X, y, **weights)
        except (AttributeError, ValueError) as error:
            if not isinstance(estimator.scoring, str):
                raise  # the user's own
            raise ValueError(
                "scoring must be 'loss', None or a scorer that fits this y and loss; "
                f"got scoring={estimator.scoring!r}, which says: {str(error).rstrip('.')}."
                f"{_other_scoring(estimator.scoring, scorer, error, targets)}"
            ) from error

    return score


def _other_scoring(name: str, scorer: Any, error: Exception, targets: Targets) -> str:
    """Return what to give in place of a scorer for one class of two, which is to be called 1."""
    others = [other for other in get_scorer_names() if other.startswith(f"{name}_")]
    is_multilabel = targets.problem == "multilabel"
    ways = [repr(other) for other in others if is_multilabel or not other.endswith("_samples")]
    if "pos_label" in str(error) and isinstance(targets, Labels):
        made = re.sub(r", average=\w+|, response_method='predict'|\)$", "", repr(scorer))
        labels = [f"pos_label={label!r}" for label in targets.classes.tolist()]
        which = f"{' or '.join(labels[1:])}, whichever class you look for"
        ways.insert(0, f"sklearn.metrics.{made}, {labels[0]}) or {which}")
    return f" Give {'; or '.join(ways)}." if ways else ""

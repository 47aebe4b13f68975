"""Nets of skorch with our loss, record, checks and way of saving."""

import copy
import math
import pickle
from typing import Any

import cloudpickle
import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EpochTimer, LRScheduler
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from torchsk._heads import Head
from torchsk._modules import as_raw
from torchsk._runtime import available_devices
from torchsk._skorch.batches import Batches


class _Net(NeuralNet):
    """What our nets change in skorch's: the loss and its record, checks, and how they are saved."""

    head_: Head
    #: penalties on parameters of two or more dimensions: divided by a batch's weight, and not
    alpha_: float
    penalty_: float
    max_grad_norm_: float | None
    #: the rate that the schedule has set last
    rate_: float
    best_losses_: dict[str, float]
    #: states of torch's schedulers, by the names of their callbacks
    schedules_: dict[str, dict]
    #: the user's callbacks as they were given; not saved
    given_: list | None

    def get_default_callbacks(self) -> list:
        """Return a clock only: losses are recorded by the net itself, and nothing is printed."""
        return [("epoch_timer", EpochTimer())]

    def check_data(self, X: Any, y: Any = None) -> None:
        """Do nothing: the estimator has checked the data."""

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Return raw outputs, checked before a loss sees them."""
        return as_raw(super().infer(x, **fit_params), self.head_, len(x))

    def get_loss(self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False) -> Any:
        """Return the penalised weighted mean; what is reported of it rides along."""
        losses, weight = self.head_.loss(y_pred, y_true.target), y_true.weight
        inverse: Any
        loss: Any
        if weight is None:
            inverse, loss = 1 / len(losses), losses.mean()
        else:
            weight = weight.to(losses.dtype)
            total = weight.sum()
            # a batch without weight, or next to none, changes nothing
            has_weight = total >= torch.finfo(total.dtype).tiny
            inverse = torch.where(has_weight, 1 / total, torch.zeros_like(total))
            loss = losses @ weight * inverse
        reported = loss.detach() * self.head_.loss_scale
        if training and (self.alpha_ or self.penalty_):
            coefs = [p for p in self.module_.parameters() if p.ndim > 1 and p.requires_grad]
            factor = self.alpha_ * inverse + self.penalty_ * (inverse > 0)
            penalty = 0.5 * factor * sum(coef.square().sum() for coef in coefs)
            loss, reported = loss + penalty, reported + penalty
        loss.reported = reported.detach()
        return loss

    # skorch calls these before the hooks of the callbacks

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Forget the last epoch's batches."""
        super().on_epoch_begin(net, **kwargs)
        self.losses_: list[Tensor] = []
        self.raw_: list[Tensor] = []

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Clip the gradient."""
        if self.max_grad_norm_ is not None:
            clip_grad_norm_([p for _, p in named_parameters], self.max_grad_norm_)

    def on_batch_end(
        self, net: Any, batch: Any, training: bool, loss: Any, y_pred: Tensor, **kwargs: Any
    ) -> None:
        """Collect losses of training batches, and outputs of held-out rows."""
        if training:
            self.losses_.append(loss.reported * len(y_pred))
        else:
            self.raw_.append(y_pred)

    def on_epoch_end(self, net: Any, dataset_train: Any, dataset_valid: Any, **kwargs: Any) -> None:
        """Record train_loss and, where rows are held out, valid_loss and valid_score."""
        self._record("train_loss", float(torch.stack(self.losses_).sum()) / len(dataset_train))
        if dataset_valid is not None:
            loss, score = dataset_valid.score(torch.cat(self.raw_))
            self._record("valid_loss", loss)
            self.history.record("valid_score", score)
        self.losses_, self.raw_ = [], []

    def _record(self, name: str, loss: float) -> None:
        best = self.best_losses_.get(name, math.inf)
        self.history.record(name, loss)
        self.history.record(f"{name}_best", loss < best)
        self.best_losses_[name] = min(loss, best)

    def begin(self, data: Batches) -> None:
        """Begin to train; torch's schedulers, which skorch makes anew, go on where they were."""
        rates = [group["lr"] for group in self.optimizer_.param_groups]
        self.notify("on_train_begin", X=data.X, y=data.y)
        for name, callback in self.callbacks_:
            if name in self.schedules_:
                callback.lr_scheduler_.load_state_dict(self.schedules_[name])
                for group, rate in zip(self.optimizer_.param_groups, rates):
                    group["lr"] = rate

    def end(self, data: Batches) -> None:
        """End training."""
        self.losses_, self.raw_ = [], []
        self.notify("on_train_end", X=data.X, y=data.y)
        self.schedules_ = {
            name: copy.deepcopy(callback.lr_scheduler_.state_dict())
            for name, callback in self.callbacks_
            if isinstance(callback, LRScheduler)
        }

    # saving

    def __getstate__(self) -> dict[str, Any]:
        """Leave out callbacks that do not pickle (writers, lambdas) and what is stored twice."""
        callbacks = [(name, _without_scheduler(callback)) for name, callback in self.callbacks_]
        callbacks = [pair for pair in callbacks if _pickles(pair)]
        stored_twice: dict[str, Any] = {"module": None, "callbacks": [], "given_": None}
        try:
            state = super().__getstate__()
        except Exception:  # a module that no name leads to: as in a worker that was sent its class
            state = self._state_by_value()
        return {**state, **stored_twice, "callbacks_": callbacks}

    def _state_by_value(self) -> dict[str, Any]:
        """Return the state as skorch makes it, with its inner pickle by cloudpickle."""
        prefixes = tuple(self.cuda_dependent_attributes_)
        inner = {name: value for name, value in vars(self).items() if name.startswith(prefixes)}
        outer = {name: value for name, value in vars(self).items() if name not in inner}
        return {**outer, "__cuda_dependent_attributes__": cloudpickle.dumps(inner)}

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Name a function to load by: formats that call none, such as skops, must not get here."""
        return _load_net, (type(self), self.__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raise: skorch's own unpickles what is in the state, code of strangers included."""
        raise TypeError("a net that skorch has trained can be loaded by pickle only.")

    def _set_state(self, state: dict[str, Any]) -> None:
        """Come to the CPU where the device is not there."""
        absent = state["device"] not in available_devices()
        super().__setstate__({**state, "device": "cpu"} if absent else state)
        self.module = self.module_


def _load_net(cls: type[_Net], state: dict[str, Any]) -> _Net:
    """Return the net that was pickled."""
    net = cls.__new__(cls)
    net._set_state(state)
    return net


def _without_scheduler(callback: Callback) -> Callback:
    """Return the callback without what holds the optimizer; on_train_begin makes it anew."""
    if isinstance(callback, LRScheduler):
        callback = copy.copy(callback)
        callback.lr_scheduler_ = None
    return callback


def _pickles(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # whatever the user's object raises
        return False
    return True


class ClassifierNet(_Net, NeuralNetClassifier):
    """A net whose predictions are class codes, or label indicators."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities, (n_samples, 2) in binary problems."""
        proba = self.head_.inverse_link(self.forward(X).detach()).numpy()
        return np.hstack([1 - proba, proba]) if proba.shape[1] == 1 else proba

    def predict(self, X: Any) -> np.ndarray:
        """Return class codes (n_samples,) or label indicators (n_samples, n_labels)."""
        head: Any = self.head_
        return head.predict_codes(self.forward(X)).numpy()


class RegressorNet(_Net, NeuralNetRegressor):
    """A net whose predictions are numbers, standardised where the estimator standardises y."""

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers."""
        head: Any = self.head_
        return head.as_prediction(head.inverse_link(self.forward(X).detach()).numpy())

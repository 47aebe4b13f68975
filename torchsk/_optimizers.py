"""Update rules as torch optimizers, and the options that an optimizer class of torch is given."""

import copy
import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from torchsk._mlp import Reexpression
from torchsk._parameters import Settings
from torchsk._solvers import SOLVERS, UPDATE_RULES, UpdateRule


class RuleOptimizer(Optimizer):
    """An update rule as a torch optimizer.

    All it needs is in `param_groups`, so it is saved and loaded as any other.
    """

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update_([p for p in group["params"] if p.grad is not None], group)
        return loss

    def _update_(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update the parameters of one group."""
        if not parameters:
            return
        rule, rates = self._rule(group, parameters[0]), dict[int, Tensor]()
        for parameter in parameters:
            weights, gradient = parameter.reshape(1, -1), parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if not state:
                state["moments"] = weights.new_zeros(rule.n_moments, *weights.shape)
                state["n_steps"] = 0
            n_steps = state["n_steps"]
            if n_steps not in rates:
                rate = rule.rates(np.array([group["lr"]]), np.array([n_steps]), 1)
                rates[n_steps] = weights.new_tensor(rate[0, 0])
            state["n_steps"] = n_steps + 1
            if rule.decoupled and parameter.ndim > 1:
                weights.mul_(1 - group["lr"] * group["alpha"])
            gradient = gradient.reshape(1, -1).clone()  # rules write over it
            rule.step_(weights, gradient, state["moments"], rates[n_steps])
            if not parameter.is_contiguous():  # weights are a copy
                parameter.copy_(weights.reshape(parameter.shape))

    def _rule(self, group: dict[str, Any], like: Tensor) -> UpdateRule:
        """Return the group's rule, made anew when its numbers have changed."""
        make = UPDATE_RULES[group["solver"]]
        key = (make, like.device, group["nesterov"], *(group[n] for n in make.hyper_parameters))
        if vars(self).get("_made", (None,))[0] != key:
            values = {name: [group[name]] for name in make.hyper_parameters}
            self._made = key, make(values, group["nesterov"], like)
        return self._made[1]


def class_of(value: Any) -> type | None:
    """Return the class that a class, or a functools.partial of one, makes; else None."""
    value = getattr(value, "func", value)
    return value if isinstance(value, type) else None


def check_solver(solver: Any) -> None:
    """Raise unless skorch can train with it."""
    if solver in UPDATE_RULES:
        return
    if isinstance(solver, str):
        raise ValueError(
            f"solver must be one of {sorted(UPDATE_RULES)} or a torch.optim.Optimizer class "
            "(torch.optim.LBFGS is one) with module, skorch_callbacks or a torch scheduler; "
            f"got solver={solver!r}."
        )
    cls = class_of(solver)
    if cls is None or not issubclass(cls, Optimizer):
        raise ValueError(
            f"solver must be one of {sorted(SOLVERS)}, a torch.optim.Optimizer class or a "
            f"functools.partial of one; got solver={solver!r}."
        )


def make_options(settings: Settings) -> tuple[Any, dict[str, Any], bool]:
    """Return (what makes the optimizer, its options without the rate, whether the loss penalises).

    An optimizer class gets those of momentum, nesterov, betas and eps that it knows, unless a
    functools.partial has set them. Some rules shrink the weights themselves.
    """
    solver, momentum = settings.solver, settings.momentum
    rule = UPDATE_RULES.get(solver)
    if rule is not None:
        options = {
            "solver": solver,
            "nesterov": settings.nesterovs_momentum,
            "alpha": settings.decay,
            "momentum": momentum,
            "beta_1": settings.beta_1,
            "beta_2": settings.beta_2,
            "epsilon": settings.epsilon,
        }
        return RuleOptimizer, options, not rule.decoupled
    options = {
        "momentum": momentum,
        "nesterov": settings.nesterovs_momentum and momentum > 0,
        "betas": (settings.beta_1, settings.beta_2),
        "eps": settings.epsilon,
    }
    parameters = inspect.signature(class_of(solver) or solver).parameters
    known = {
        name: value
        for name, value in options.items()
        if name in parameters
        and name not in getattr(solver, "keywords", {})
        # Adafactor's eps is two numbers
        and isinstance(parameters[name].default, tuple) == isinstance(value, tuple)
    }
    return solver, known, True


def make_groups(settings: Settings, rate: float, factors: dict[str, float]) -> dict[str, Any]:
    """Return skorch's option for groups of parameters that are trained at a share of the rate.

    Factors are by patterns of names. torch's LBFGS, which steps by a line search, knows no groups.
    """
    if not factors or class_of(settings.solver) is torch.optim.LBFGS:
        return {}
    return {
        "param_groups": [
            (pattern, {"lr": rate * factor, "rate_factor": factor})
            for pattern, factor in factors.items()
        ]
    }


def resume(optimizer: Optimizer, before: Optimizer) -> None:
    """Go on with the moments and the rate of another optimizer; other options are one's own."""
    saved = copy.deepcopy(before.state_dict())  # what is loaded is then written over
    groups = [
        {**old, **new, "lr": old["lr"]}
        for old, new in zip(saved["param_groups"], optimizer.state_dict()["param_groups"])
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def reexpress_(optimizer: Optimizer, change: Reexpression) -> None:
    """Re-express the moments of an update rule that trains the built-in network.

    Those of torch's own classes stay as they are.
    """
    group, *embedding = optimizer.param_groups
    states = [optimizer.state[parameter] for parameter in group["params"]]
    # coefs and intercepts take turns here; in a flat vector all coefs come first
    states = states[::2] + states[1::2]
    states += [optimizer.state[parameter] for slow in embedding for parameter in slow["params"]]
    if not isinstance(optimizer, RuleOptimizer) or not all(states):
        return
    parts = [state["moments"] for state in states]
    flat = torch.cat(parts, 2).squeeze(1).cpu().numpy()
    flat = UPDATE_RULES[group["solver"]].reexpress(flat, change)
    ends = np.cumsum([part.shape[2] for part in parts])[:-1]
    for part, new in zip(parts, np.split(flat, ends, axis=1)):
        part.copy_(torch.from_numpy(new).unsqueeze(1))

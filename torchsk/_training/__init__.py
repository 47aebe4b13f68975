"""Training: from jobs to results, by whichever lane a solver has.

A `Lane` trains jobs: `StackLane` networks in lockstep, one or hundreds, with the update rules;
`LbfgsLane` one network on all rows at once. (The lane of skorch is a room of its own, imported on
use.) Whatever the lane, a `Run` records the epochs of a job, keeps its best weights and says how it
ends.
"""

from typing import Any

from torchsk._training.jobs import (
    Lane,
    SolverState,
    TrainingCancelled,
    TrainingJob,
    TrainingResult,
    Validation,
)
from torchsk._training.lbfgs import LbfgsLane
from torchsk._training.progress import Progress
from torchsk._training.run import Run
from torchsk._training.stack import STACK_PARAMETERS, StackLane

__all__ = [
    "STACK_PARAMETERS",
    "LbfgsLane",
    "Lane",
    "Progress",
    "Run",
    "SolverState",
    "StackLane",
    "TrainingCancelled",
    "TrainingJob",
    "TrainingResult",
    "Validation",
    "lane_of",
]

#: lanes of the solvers that are no update rules
LANES: dict[str, type[LbfgsLane]] = {"lbfgs": LbfgsLane}


def lane_of(solver: Any) -> Lane:
    """Return the lane that trains the built-in network with a solver."""
    return LANES.get(solver, StackLane)(solver)

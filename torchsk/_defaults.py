"""What "auto" becomes: rules of the number of rows and columns, found by `benchmarks/accuracy.py`.

n is the number of rows that are trained on, equal ones counted once. The rules step coarsely in n,
at places that are no round numbers, so that the folds of a cross-validation, which differ by a row,
train in one stack.
"""

import math

# rows of a batch: about n / 12, within these bounds
SMALLEST_BATCH, LARGEST_BATCH, BATCHES = 32, 200, 12
#: numbers of batches in an epoch that are tried
N_BATCHES = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20] + [
    round(digits * 10**power)
    for power in range(1, 7)
    for digits in (2.5, 3.2, 4, 5, 6.4, 8, 10, 13, 16, 20)
]
# largest penalty; its factor for a classifier and a regressor
LARGEST_PENALTY = 0.05
PENALTY = {True: 1.0, False: 1.5}
# by which it is less for each hidden layer of sigmoids
PENALTY_DIVISOR_OF_SIGMOIDS = 4.0
# by which it is more behind an embedding of the columns, which fits more
PENALTY_FACTOR_OF_EMBEDDINGS = 2.0
# of a module of the user's, in scikit-learn's unit
ALPHA_OF_A_MODULE = 0.0001
# what a wide layer drops where rows are many, but not for their columns
DROPOUT, DROPOUT_ROWS, DROPOUT_ROWS_PER_COLUMN, SMALLEST_WIDTH = 0.1, 1030, 206, 16


def n_batches(n: int) -> int:
    """Return the number of batches in an epoch of n rows: of about n / 12, but 32 to 200 rows."""
    if n <= SMALLEST_BATCH:
        return 1
    wanted = n / min(LARGEST_BATCH, max(SMALLEST_BATCH, n / BATCHES))
    return min(N_BATCHES, key=lambda number: abs(math.log(number / wanted)))


def n_batches_of_a_stream(n: int) -> int:
    """Return the number of batches of one call of partial_fit, of at most 200 rows."""
    return -(-n // LARGEST_BATCH)


def penalty(
    n: int, n_features: int, is_classifier: bool, n_sigmoids: int = 0, *, is_embedded: bool = False
) -> float:
    """Return lambda of the penalty lambda / 2 ||W||^2 on the mean loss; it falls as 1 / n.

    It grows with the root of the number of columns, and falls faster where rows are many for them.
    Sigmoids, of a slope of at most 1 / 4, need larger weights: their layers would die of it.
    """
    share = min(1.0, 200 * n_features / n)
    size = PENALTY[is_classifier] * math.sqrt(min(n_features, 256) * share)
    if is_embedded:
        size *= PENALTY_FACTOR_OF_EMBEDDINGS
    return min(LARGEST_PENALTY, size / n) / PENALTY_DIVISOR_OF_SIGMOIDS**n_sigmoids


def dropout(n: int, n_features: int, width: int) -> float:
    """Return the probability of dropping a unit of a layer."""
    pays = DROPOUT_ROWS < n <= DROPOUT_ROWS_PER_COLUMN * n_features and width >= SMALLEST_WIDTH
    return DROPOUT if pays else 0.0

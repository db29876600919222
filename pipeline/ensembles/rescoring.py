"""Stacked rescoring: gradient-boosted trees give each fused box the probability that it is correct.

Source of the idea: Wolpert, "Stacked generalization" (1992); the trees are LightGBM's. A fitted model
is LightGBM's text, read back for every prediction, so that what is saved is what was scored. It is
trained and applied on one thread: the result does not depend on the machine or on other boxes.
"""

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 200
MIN_SCORE = np.float32(1e-6)  # a score of 0 would be dropped by the next fusion
PARAMETERS: dict[str, Any] = {
    "objective": "cross_entropy",  # takes shares between 0 and 1, as metrics of several IoUs give them
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}


def fit_rescoring(
    rows: NDArray[np.float32], correct: NDArray[np.float64], seed: int, rounds: int = ROUNDS
) -> str:
    """LightGBM's text of trees that predict `correct` (n,) in [0, 1] from `rows` (n, columns)."""
    import lightgbm

    parameters = PARAMETERS | {"seed": seed}
    if len(rows) < 4 * PARAMETERS["min_data_in_leaf"]:
        parameters["min_data_in_leaf"] = max(2, len(rows) // 8)
    data = lightgbm.Dataset(rows, correct, params={"verbose": -1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(lightgbm.train(parameters, data, rounds).model_to_string())


@lru_cache(maxsize=4)
def _booster(text: str) -> Any:
    import lightgbm

    return lightgbm.Booster(model_str=text)


def rescored(text: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) probability that each box is correct, in [MIN_SCORE, 1]."""
    if not len(rows):
        return np.empty(0, np.float32)
    return np.clip(_booster(text).predict(rows, num_threads=1), MIN_SCORE, 1.0).astype(np.float32)

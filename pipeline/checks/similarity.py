"""Does test look like train? A classifier is asked to tell them apart (adversarial validation)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

Floats = NDArray[np.float64]
MIN_PHOTOS = 20  # photos of each split; fewer tell nothing
CONFIDENCE = 1.96  # standard deviations either side: 95 %
SIMILAR = 0.6  # an AUC below is of little consequence, even where it is no accident


@dataclass(frozen=True)
class Similarity:
    """AUC of telling test from train (0.5: alike, 1: never mistaken), its 95 % interval, best features."""

    auc: float
    low: float
    high: float
    top_features: tuple[str, ...]

    @property
    def verdict(self) -> str:
        if self.low <= 0.5:
            return "test looks like train"
        return "test looks much like train" if self.auc < SIMILAR else "test differs from train"


def compare_splits(train: Floats, test: Floats, names: tuple[str, ...], seed: int = 0) -> Similarity | None:
    """Cross-validated random forest over (n, f) statistics; None with too few photos.

    Every photo is scored by a forest that has not seen it; the interval is DeLong's. An AUC below 0.5
    is an accident of small samples and means no more than 0.5.
    """
    if min(len(train), len(test)) < MIN_PHOTOS:
        return None
    values = np.concatenate([train, test])
    is_test = np.arange(len(values)) >= len(train)
    forest = RandomForestClassifier(
        200, min_samples_leaf=5, class_weight="balanced", n_jobs=-1, random_state=seed
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(forest, values, is_test, cv=folds, method="predict_proba")[:, 1]
    auc, error = delong(scores[~is_test], scores[is_test])
    forest.fit(values, is_test)
    order = np.argsort(-forest.feature_importances_)
    top_features = tuple(names[i] for i in order[:3])
    half = CONFIDENCE * error
    return Similarity(auc, max(auc - half, 0.0), min(auc + half, 1.0), top_features)


def delong(negative: Floats, positive: Floats) -> tuple[float, float]:
    """(AUC, its standard error) of two samples of scores (DeLong, DeLong and Clarke-Pearson 1988).

    With the share of the other sample that each score is on the right side of (ties count half),
    the AUC is the mean share and its variance var(share_neg) / n_neg + var(share_pos) / n_pos.
    """
    shares = []
    for own, other, sign in ((negative, np.sort(positive), -1), (positive, np.sort(negative), 1)):
        below, upto = np.searchsorted(other, own, "left"), np.searchsorted(other, own, "right")
        share = (below + upto) / 2 / len(other)
        shares.append(share if sign == 1 else 1 - share)
    variance = sum(float(np.var(share, ddof=1)) / len(share) for share in shares)
    return float(shares[1].mean()), float(np.sqrt(variance))

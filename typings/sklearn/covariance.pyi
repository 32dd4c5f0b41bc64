"""What safeguard takes from sklearn.covariance."""

from numpy import float64
from numpy.typing import NDArray

_Array = NDArray[float64]

def ledoit_wolf_shrinkage(X: _Array, assume_centered: bool = False, block_size: int = 1000) -> float: ...

class LedoitWolf:
    covariance_: _Array
    def __init__(self, *, assume_centered: bool = False) -> None: ...
    def fit(self, X: _Array) -> LedoitWolf: ...
    def mahalanobis(self, X: _Array) -> _Array: ...

"""Numbers that callers give, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def finite(values: Any, name: str, size: int) -> NDArray[np.float64]:
    """The values as (size,) float64; ValueError names a wrong shape, or the index of what is not finite."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: no numbers ({error}); ({size},) expected") from error
    if array.shape != (size,):
        raise ValueError(f"{name}: shape {array.shape}; ({size},) expected")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}; a finite number expected")
    return array

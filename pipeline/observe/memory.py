"""Memory: batches as large as the device holds.

How much a batch takes is known when it was tried. One for which there is no memory is halved, which
is said, and no later one of this pass is larger than what was found to fit. A row is the same in
any batch, to within the rounding of a sum.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
Rows = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class Fitting:
    """What was found out of the memory of a device.

    Attributes:
        most: rows times the longest of a batch that is tried; None: nothing was too large yet.
    """

    most: float | None = None

    def each(self, batch: Rows, lengths: Sequence[int], read: Callable[[Rows], T]) -> Iterator[T]:
        """Read a batch, or its halves.

        Args:
            batch: numbers of rows.
            lengths: tokens of all rows.
            read: reads some of them.

        Raises:
            ValueError: one row alone is too much.
        """
        import torch

        waiting = [batch]
        while waiting:
            rows = waiting.pop()
            longest = max(lengths[row] for row in rows)
            size = len(rows) * longest
            if len(rows) == 1 or self.most is None or size <= self.most:
                try:
                    found = read(rows)
                except torch.OutOfMemoryError:
                    if len(rows) == 1:
                        raise ValueError(
                            f"the device has too little memory for one row of {longest:,} tokens: "
                            "lower passes.max_length, or run a smaller model or another dtype."
                        ) from None
                    self.most = size / 2
                    _LOG.warning(
                        "out of memory with %d rows of up to %s tokens in a batch; going on with "
                        "half as much.",
                        len(rows),
                        f"{longest:,}",
                    )
                else:
                    yield found
                    continue
                gc.collect()  # what the failed attempt holds
                torch.cuda.empty_cache()
            half = (len(rows) + 1) // 2
            waiting += [rows[half:], rows[:half]]

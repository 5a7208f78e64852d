"""Random numbers that are the same bits on every machine, and the CountSketch drawn from them.

A counter-based generator (Philox) is keyed by a name and read on the CPU, so neither the device,
nor the number of devices, nor the split into batches has a say. A known CUDA projection kernel
draws a matrix that depends on the number of multiprocessors: features of two GPU types do not
compare.
"""

# P = coordinates, D = buckets, S = slots of a bucket

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def random_words(count: int, *key: str | int) -> npt.NDArray[np.uint64]:
    """`count` random 64-bit words of the stream named by `key`."""
    name = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    stream = np.random.Philox(key=np.frombuffer(name, dtype="<u8").astype(np.uint64))
    return np.asarray(stream.random_raw(count), dtype=np.uint64)


def random_signs(count: int, *key: str | int) -> npt.NDArray[np.int8]:
    """`count` independent numbers from {-1, 1}."""
    words = random_words(-(-count // 64), *key).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=count, bitorder="little")
    return 2 * bits.astype(np.int8) - 1


def sign_matrix(rows: int, columns: int, *key: str | int) -> Tensor:
    """Independent +-1/sqrt(columns): columns of P with E[P P^T] = 1."""
    signs: Tensor = torch.from_numpy(random_signs(rows * columns, *key)).reshape(rows, columns)
    scaled: Tensor = signs.double() / columns**0.5
    return scaled


@dataclass(frozen=True, kw_only=True)
class CountSketch:
    """Every coordinate is added to one of `size` buckets with a sign of its own.

    The sum runs in a fixed order (atomic adds on a GPU do not), so equal input gives equal bits.
    """

    size: int
    bucket_P: Tensor
    sign_P: Tensor
    slots_DS: Tensor | None  # coordinates of each bucket; the number P represents "none"

    @staticmethod
    def draw(coordinates: int, size: int, *key: str | int, device: torch.device) -> "CountSketch":
        """Draw buckets and signs on the CPU."""
        words = random_words(coordinates, *key)
        bucket = torch.from_numpy(((words >> np.uint64(1)) % np.uint64(size)).astype(np.int64))
        sign = torch.from_numpy((2 * (words & np.uint64(1)).astype(np.int8) - 1).astype(np.int8))
        slots = None if device.type == "cpu" else bucket_slots(bucket, size).to(device)
        return CountSketch(
            size=size, bucket_P=bucket.to(device), sign_P=sign.to(device), slots_DS=slots
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Sketch the last dimension: ... x P to ... x size."""
        lead = x.shape[:-1]
        signed_NP = x.reshape(-1, x.shape[-1]) * self.sign_P.to(x.dtype)
        if self.slots_DS is None:
            out_ND = signed_NP.new_zeros(len(signed_NP), self.size)
            out_ND.index_add_(1, self.bucket_P, signed_NP)
        else:
            ended_NP = torch.nn.functional.pad(signed_NP, (0, 1))
            out_ND = ended_NP[:, self.slots_DS].sum(-1)
        return out_ND.reshape(*lead, self.size)


def bucket_slots(bucket_P: Tensor, size: int) -> Tensor:
    """Table of the coordinates in each bucket, in order, filled up with the number P."""
    count_D = torch.bincount(bucket_P, minlength=size)
    order_P = torch.argsort(bucket_P, stable=True)
    sorted_P = bucket_P[order_P]
    place_P = torch.arange(len(bucket_P)) - (count_D.cumsum(0) - count_D)[sorted_P]
    slots_DS = torch.full((size, int(count_D.max())), len(bucket_P))
    slots_DS[sorted_P, place_P] = order_P
    return slots_DS

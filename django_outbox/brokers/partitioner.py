"""The partition of a key, as Kafka's clients choose it."""

from __future__ import annotations

from functools import lru_cache

_MASK, _FACTOR, _SEED = 0xFFFFFFFF, 0x5BD1E995, 0x9747B28C


# kafka-python has it too, but importing that takes longer than all of the other client. In Python, it takes a sixth of the
# time to send a record, so the hashes of recent keys are kept.
@lru_cache(maxsize=10_000)
def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, an unsigned number of 32 bits."""
    size = len(key)
    hashed = (_SEED ^ size) & _MASK
    for at in range(0, size - size % 4, 4):
        part = int.from_bytes(key[at : at + 4], "little") * _FACTOR & _MASK
        hashed = (hashed * _FACTOR & _MASK) ^ ((part ^ part >> 24) * _FACTOR & _MASK)
    if rest := key[size - size % 4 :]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _FACTOR & _MASK
    hashed = (hashed ^ hashed >> 13) * _FACTOR & _MASK
    return hashed ^ hashed >> 15


def partition_of(key: bytes, count: int) -> int:
    """The position of a key's partition among so many, by the default of kafka-python, Java and ``murmur2_random``."""
    return (murmur2(key) & 0x7FFFFFFF) % count

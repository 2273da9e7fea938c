"""Merkle trees as in RFC 9162, section 2.1: roots, inclusion proofs and consistency proofs, with SHA-256.

A tree over `size` leaves is made of complete subtrees. The functions that make proofs get the hash of a
complete subtree from `node`: `node(level, number)` covers the `2^level` leaves from `number * 2^level` on.
The functions that check proofs need no tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

Nodes = Callable[[int, int], bytes]

#: Root of the tree without leaves.
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(number: int, leaf: bytes, node: Nodes) -> list[tuple[int, int, bytes]]:
    """The complete subtrees that a new last leaf ends, the leaf itself first: (level, number, hash) of each.

    Args:
        number: of the leaf.
        leaf: its hash.
        node: of the tree without it.
    """
    made = [(0, number, leaf)]
    level, hashed = 0, leaf
    while number & 1:
        hashed = node_hash(node(level, number - 1), hashed)
        level, number = level + 1, number >> 1
        made.append((level, number, hashed))
    return made


def root(size: int, node: Nodes) -> bytes:
    """The root over the first `size` leaves."""
    return _hash(0, size, node) if size else EMPTY_ROOT


def inclusion_path(number: int, size: int, node: Nodes) -> list[bytes]:
    """The proof that leaf `number` is among the first `size` leaves (RFC 9162, 2.1.3.1), number < size."""
    return _path(number, 0, size, node)


def consistency_path(first: int, size: int, node: Nodes) -> list[bytes]:
    """The proof that the first `size` leaves begin with the first `first` leaves (RFC 9162, 2.1.4.1),
    0 < first <= size.
    """
    return _subproof(first, 0, size, node, is_known=True)


def includes(leaf: bytes, number: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves that leaf `number` of the tree with this size and root has the hash `leaf`
    (RFC 9162, 2.1.3.2).
    """
    if not 0 <= number < size:
        return False
    place, last, hashed = number, size - 1, leaf
    for other in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            hashed = node_hash(other, hashed)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            hashed = node_hash(hashed, other)
        place, last = place >> 1, last >> 1
    return last == 0 and hashed == root


def extends(first: int, first_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` proves that the tree of `size` leaves begins with the tree of `first` leaves
    (RFC 9162, 2.1.4.2).
    """
    if first == size:
        return not path and first_root == root
    if not 0 < first < size or not path:
        return False
    rest = list(path) if first & (first - 1) else [first_root, *path]
    place, last = first - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = rest[0]
    for other in rest[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(other, before), node_hash(other, after)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, other)
        place, last = place >> 1, last >> 1
    return last == 0 and before == first_root and after == root


def _split(count: int) -> int:
    """The largest power of two below a number above 1."""
    return int(1 << (count - 1).bit_length() - 1)


def _hash(start: int, count: int, node: Nodes) -> bytes:
    """The hash of the subtree over `count` leaves from `start` on."""
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, start >> level)
    left = _split(count)
    return node_hash(_hash(start, left, node), _hash(start + left, count - left, node))


def _path(number: int, start: int, count: int, node: Nodes) -> list[bytes]:
    if count == 1:
        return []
    left = _split(count)
    if number < start + left:
        return [*_path(number, start, left, node), _hash(start + left, count - left, node)]
    return [*_path(number, start + left, count - left, node), _hash(start, left, node)]


def _subproof(first: int, start: int, count: int, node: Nodes, *, is_known: bool) -> list[bytes]:
    """`is_known`: whether the subtree from 0 on is the whole first tree, whose root the verifier has."""
    if first == count:
        return [] if is_known else [_hash(start, count, node)]
    left = _split(count)
    if first <= left:
        rest = _subproof(first, start, left, node, is_known=is_known)
        return [*rest, _hash(start + left, count - left, node)]
    rest = _subproof(first - left, start + left, count - left, node, is_known=False)
    return [*rest, _hash(start, left, node)]

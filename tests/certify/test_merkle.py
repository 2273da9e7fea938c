"""Merkle trees against the published vectors of certificate-transparency's reference tests, and against a
tree that is computed by the definition."""

import hashlib
from itertools import pairwise

import pytest

from smoothgate.certify.merkle import (
    EMPTY_ROOT,
    Nodes,
    completed,
    consistency_path,
    extends,
    includes,
    inclusion_path,
    leaf_hash,
    node_hash,
    root,
)

# Leaves, roots and proofs of the reference tests of Certificate Transparency (RFC 6962; RFC 9162 has the same
# trees).
LEAVES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (leaf, size): path.
INCLUSIONS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
# (first, size): path.
CONSISTENCIES = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def _tree(leaves: list[bytes]) -> Nodes:
    nodes: dict[tuple[int, int], bytes] = {}

    def node(level: int, number: int) -> bytes:
        return nodes[level, number]

    for number, data in enumerate(leaves):
        for level, place, hashed in completed(number, leaf_hash(data), node):
            nodes[level, place] = hashed
    return node


def _defined_root(leaves: list[bytes]) -> bytes:
    if len(leaves) < 2:
        return leaf_hash(leaves[0]) if leaves else hashlib.sha256(b"").digest()
    split = max(2**k for k in range(20) if 2**k < len(leaves))
    return node_hash(_defined_root(leaves[:split]), _defined_root(leaves[split:]))


def test_roots_are_the_published_ones() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    node = _tree(LEAVES)
    assert root(0, node) == EMPTY_ROOT
    assert [root(size, node).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("number", "size"), INCLUSIONS)
def test_inclusion_proofs_are_the_published_ones(number: int, size: int) -> None:
    path = inclusion_path(number, size, _tree(LEAVES))
    assert [each.hex() for each in path] == INCLUSIONS[number, size]


@pytest.mark.parametrize(("first", "size"), CONSISTENCIES)
def test_consistency_proofs_are_the_published_ones(first: int, size: int) -> None:
    path = consistency_path(first, size, _tree(LEAVES))
    assert [each.hex() for each in path] == CONSISTENCIES[first, size]


MANY = [number.to_bytes(2, "big") for number in range(70)]


def test_every_leaf_of_every_tree_is_proved_and_nothing_else() -> None:
    node = _tree(MANY)
    for size in range(1, 71):
        head = _defined_root(MANY[:size])
        assert root(size, node) == head
        for number in range(size):
            leaf, path = leaf_hash(MANY[number]), inclusion_path(number, size, node)
            assert includes(leaf, number, size, path, head)
            assert not includes(leaf_hash(b"other"), number, size, path, head)
            assert not includes(leaf, number, size, [*path, leaf], head)
            assert not includes(leaf, number, size, path, EMPTY_ROOT)
            assert not includes(leaf, (number + 1) % size, size, path, head) or size == 1
            if path:
                assert not includes(leaf, number, size, path[:-1], head)
    assert not includes(leaf_hash(MANY[0]), 1, 1, [], root(1, node))
    assert not includes(leaf_hash(MANY[0]), -1, 1, [], root(1, node))


def test_every_tree_extends_every_earlier_one_and_no_other() -> None:
    node = _tree(MANY)
    heads = [root(size, node) for size in range(71)]
    for size in range(1, 71):
        for first in range(1, size + 1):
            path = consistency_path(first, size, node)
            assert extends(first, heads[first], size, heads[size], path)
            assert not extends(first, leaf_hash(b"other"), size, heads[size], path)
            assert not extends(first, heads[first], size, leaf_hash(b"other"), path)
            assert not extends(first, heads[first], size, heads[size], [*path, EMPTY_ROOT])
            if path:
                assert not extends(first, heads[first], size, heads[size], path[:-1])
    assert not extends(2, heads[2], 1, heads[1], [])
    assert not extends(0, EMPTY_ROOT, 1, heads[1], [])


def test_a_tree_that_was_rewritten_is_no_extension() -> None:
    honest, rewritten = _tree(MANY), _tree([b"other", *MANY[1:]])
    for first, size in pairwise(range(1, 71)):
        path = consistency_path(first, size, rewritten)
        assert not extends(first, root(first, honest), size, root(size, rewritten), path)

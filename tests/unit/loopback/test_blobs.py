from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from skyrl_magic.loopback.blobs import BlobStore, DigestMismatchError


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_put(store: BlobStore) -> None:
    name = store.put(b"x", sha256(b"x"))
    assert name == sha256(b"x") == store.put(b"x")
    assert store.path(name).read_bytes() == b"x"
    assert store.claim(name)
    assert not store.claim(sha256(b"y"))


def test_a_wrong_digest_stores_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(DigestMismatchError):
        store.put(b"x", sha256(b"y"))
    writer = store.writer()
    writer.write(b"x")
    with pytest.raises(DigestMismatchError):
        writer.commit(sha256(b"y"))
    assert list(tmp_path.iterdir()) == []


def test_writer(store: BlobStore, tmp_path: Path) -> None:
    writer = store.writer()
    for part in (b"one ", b"", b"two"):
        writer.write(part)
    assert writer.size_bytes == 7
    assert writer.md5_hex == hashlib.md5(b"one two", usedforsecurity=False).hexdigest()
    assert writer.commit() == sha256(b"one two")
    writer.discard()
    assert [path.name for path in tmp_path.iterdir()] == [sha256(b"one two")]


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n", "0" * 64 + "\n"]
)
def test_only_digests_are_names(store: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        store.path(name)


def test_collect(store: BlobStore) -> None:
    kept, dropped = store.put(b"kept"), store.put(b"dropped")
    assert store.collect([kept]) == 0
    assert store.collect([kept], min_age_s=-60) == len(b"dropped")
    assert store.claim(kept)
    assert not store.claim(dropped)

"""Volumes through Modal's own client."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import modal
import pytest
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError
from modal_proto import api_pb2

from skyrl_magic.loopback.livetree import BLOCK_BYTES
from tests.loopback.modal_internals import inner, on_modal_loop


@pytest.fixture(params=[1, 2])
def volume(request: pytest.FixtureRequest, modal_client: modal.Client) -> Iterator[modal.Volume]:
    """A new volume of either version."""
    name = f"v-{uuid.uuid4().hex[:12]}"
    yield modal.Volume.from_name(name, create_if_missing=True, version=request.param, client=modal_client)
    modal.Volume.objects.delete(name, client=modal_client)


def read(volume: modal.Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def put(volume: modal.Volume, files: dict[str, bytes], *, force: bool = False) -> None:
    with volume.batch_upload(force=force) as batch:
        for path, content in files.items():
            batch.put_file(io.BytesIO(content), path)


def paths(volume: modal.Volume, path: str = "/", *, recursive: bool = True) -> list[str]:
    return [entry.path for entry in volume.listdir(path, recursive=recursive)]


def test_a_volume_is_of_version_1_where_none_is_asked_for(modal_client: modal.Client) -> None:
    name = f"v-{uuid.uuid4().hex[:12]}"
    modal.Volume.from_name(name, create_if_missing=True, client=modal_client).hydrate()
    with pytest.raises(InvalidError, match="exists but has version v1, not v2"):
        modal.Volume.from_name(name, version=2, create_if_missing=True, client=modal_client).hydrate()
    modal.Volume.from_name(name, version=1, client=modal_client).hydrate()
    modal.Volume.objects.delete(name, client=modal_client)


def test_upload_list_read(volume: modal.Volume) -> None:
    put(volume, {"/a/b.txt": b"hello", "c.bin": b"", "/a/d/e": b"x" * 100})
    assert paths(volume) == ["a", "a/b.txt", "a/d", "a/d/e", "c.bin"]
    assert paths(volume, recursive=False) == ["a", "c.bin"]
    assert paths(volume, "/a", recursive=False) == ["a/b.txt", "a/d"]
    assert paths(volume, "a/b.txt") == ["a/b.txt"]
    assert read(volume, "a/b.txt") == b"hello"
    assert read(volume, "c.bin") == b""
    sizes = {entry.path: entry.size for entry in volume.listdir("/", recursive=True)}
    assert sizes["a/d/e"] == 100


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 10,
        b"abc" + b"\0" * 1000,
        b"\0" * (BLOCK_BYTES + 5),
        os.urandom(2 * BLOCK_BYTES) + b"end",
        b"x" * BLOCK_BYTES,
        b"y" * (BLOCK_BYTES - 1) + b"\0" + b"z",
    ],
    ids=["zeros", "trailing-zeros", "zero-block", "three-blocks", "one-block", "zero-at-border"],
)
def test_contents_come_back_exactly(volume: modal.Volume, content: bytes) -> None:
    put(volume, {"file": content})
    assert read(volume, "file") == content


def test_an_existing_file_is_replaced_only_by_force(volume: modal.Volume) -> None:
    put(volume, {"f": b"one"})
    with pytest.raises(FileExistsError):
        put(volume, {"f": b"two"})
    assert read(volume, "f") == b"one"
    put(volume, {"f": b"two"}, force=True)
    assert read(volume, "f") == b"two"


def test_a_file_cannot_replace_a_directory(volume: modal.Volume) -> None:
    put(volume, {"d/f": b"one"})
    with pytest.raises(InvalidError, match="directory"):
        put(volume, {"d": b"two"}, force=True)
    assert paths(volume) == ["d", "d/f"]


def test_upload_of_a_folder_keeps_modes(volume: modal.Volume, tmp_path: Path) -> None:
    (tmp_path / "src/sub").mkdir(parents=True)
    script = tmp_path / "src/sub/run.sh"
    script.write_bytes(b"#!/bin/sh\n")
    script.chmod(0o751)
    (tmp_path / "src/data.txt").write_bytes(b"data")
    with volume.batch_upload() as batch:
        batch.put_directory(tmp_path / "src", "/up")
    assert paths(volume) == ["up", "up/data.txt", "up/sub", "up/sub/run.sh"]
    assert read(volume, "up/sub/run.sh") == b"#!/bin/sh\n"


def test_remove(volume: modal.Volume) -> None:
    put(volume, {"a/b": b"1", "a/c": b"2", "d": b"3"})
    volume.remove_file("d")
    with pytest.raises(InvalidError, match="recursive"):
        volume.remove_file("a")
    volume.remove_file("a/b")
    assert paths(volume) == ["a", "a/c"]
    volume.remove_file("/a", recursive=True)
    assert paths(volume) == []
    with pytest.raises(FileNotFoundError):
        volume.remove_file("a/b")


def test_copy(volume: modal.Volume) -> None:
    put(volume, {"a/b": b"1", "c": b"2"})
    volume.copy_files(["a/b"], "copy")
    volume.copy_files(["a/b", "c"], "a/")
    assert paths(volume) == ["a", "a/b", "a/c", "c", "copy"]
    assert read(volume, "copy") == b"1"
    with pytest.raises(FileNotFoundError):
        read(volume, "a/none")
    with pytest.raises(InvalidError, match="leaves the volume"):
        volume.copy_files(["c"], "../outside")


def test_read_of_what_is_not_a_file(volume: modal.Volume) -> None:
    put(volume, {"a/b": b"1"})
    with pytest.raises(FileNotFoundError):
        read(volume, "nothing")
    with pytest.raises(InvalidError, match="directory"):
        read(volume, "a")
    with pytest.raises(NotFoundError):
        paths(volume, "nothing")


def ranged(client: modal.Client, volume: modal.Volume, path: str, start: int, length: int) -> tuple[bytes, int]:
    """A ranged read through the client's stub, as the public API has none; the bytes and the file's size."""
    request = api_pb2.VolumeGetFile2Request(volume_id=volume.object_id, path=path, start=start, len=length)

    async def fetch() -> tuple[bytes, int]:
        response = await inner(client)._stub.VolumeGetFile2(request)
        async with aiohttp.ClientSession() as session:
            parts = []
            for url in response.get_urls:
                async with session.get(url) as got:
                    assert got.status == 200
                    parts.append(await got.read())
        assert response.len == len(b"".join(parts))
        return b"".join(parts), response.size

    content, size_bytes = on_modal_loop(fetch())
    return content, size_bytes


def test_ranged_read(volume: modal.Volume, modal_client: modal.Client) -> None:
    content = os.urandom(BLOCK_BYTES) + b"\0" * BLOCK_BYTES + b"tail"
    put(volume, {"file": content})
    for start, length in [(0, 10), (BLOCK_BYTES - 5, 10), (5, 2 * BLOCK_BYTES), (2 * BLOCK_BYTES - 3, 0)]:
        expected = content[start : start + length] if length else content[start:]
        assert ranged(modal_client, volume, "file", start, length) == (expected, len(content))
    assert ranged(modal_client, volume, "file", len(content) + 5, 10) == (b"", len(content))


def test_names(modal_client: modal.Client) -> None:
    name, other = f"n-{uuid.uuid4().hex[:12]}", f"m-{uuid.uuid4().hex[:12]}"
    with pytest.raises(NotFoundError, match=name):
        modal.Volume.from_name(name, client=modal_client).hydrate()
    modal.Volume.objects.create(name, client=modal_client)
    with pytest.raises(AlreadyExistsError):
        modal.Volume.objects.create(name, client=modal_client)
    modal.Volume.objects.create(name, allow_existing=True, client=modal_client)
    first = modal.Volume.from_name(name, client=modal_client).hydrate()
    modal.Volume.rename(name, other, client=modal_client)
    assert modal.Volume.from_name(other, client=modal_client).hydrate().object_id == first.object_id
    assert modal.Volume.from_id(first.object_id, client=modal_client).hydrate().name == other
    assert other in [volume.name for volume in modal.Volume.objects.list(client=modal_client)]
    modal.Volume.objects.delete(other, client=modal_client)
    with pytest.raises(NotFoundError):
        modal.Volume.from_name(other, client=modal_client).hydrate()


def test_list_in_pages(modal_client: modal.Client) -> None:
    prefix = uuid.uuid4().hex[:12]
    names = [f"p-{prefix}-{number}" for number in range(3)]
    for name in names:
        modal.Volume.objects.create(name, client=modal_client)
    newest = modal.Volume.objects.list(max_objects=2, client=modal_client)
    assert [volume.name for volume in newest] == names[:0:-1]
    for name in names:
        modal.Volume.objects.delete(name, client=modal_client)


def test_ephemeral_volume(modal_client: modal.Client) -> None:
    with modal.Volume.ephemeral(client=modal_client) as volume:
        put(volume, {"f": b"1"})
        assert paths(volume) == ["f"]
        volume.commit()
        volume.reload()
    assert None not in [volume.name for volume in modal.Volume.objects.list(client=modal_client)]

"""The files of volumes: list, read a range, upload, remove, copy. Version 1 and 2 differ only in the upload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import api_pb2

from skyrl_magic.loopback.blob_endpoint import get_url, put_url
from skyrl_magic.loopback.control.calls import Calls, unary
from skyrl_magic.loopback.control.volumes import find_volume
from skyrl_magic.loopback.livetree import BLOCK_BYTES, EMPTY_SHA256, split_blob
from skyrl_magic.loopback.trees import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Entry,
    Manifest,
    PathExistsError,
    PathMissingError,
    TreeError,
    normalize,
)
from skyrl_magic.loopback.volumes import VolumeMissingError

if TYPE_CHECKING:
    from skyrl_magic.loopback.state import ServerState

T = TypeVar("T")
ListRequest = TypeVar("ListRequest", api_pb2.VolumeListFilesRequest, api_pb2.VolumeListFiles2Request)
ListResponse = TypeVar("ListResponse", api_pb2.VolumeListFilesResponse, api_pb2.VolumeListFiles2Response)

#: How many entries go into one message of a listing.
BATCH = 500
DEFAULT_FILE_MODE = 0o644
_TYPES = {
    FILE: api_pb2.FileEntry.FILE,
    DIRECTORY: api_pb2.FileEntry.DIRECTORY,
    SYMLINK: api_pb2.FileEntry.SYMLINK,
}


def shown(path: str) -> str:
    r"""A path as valid UTF-8: other bytes become ``\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _key(manifest: Manifest, path: str) -> str:
    """The manifest's path for what a request says, which may be the shown form of a name that is not UTF-8."""
    name = normalize(path)
    if "\\x" in name and name not in manifest.entries:
        return next((key for key in manifest.entries if shown(key) == name), name)
    return name


def _file_entry(path: str, entry: Entry) -> api_pb2.FileEntry:
    return api_pb2.FileEntry(
        path=shown(path), type=_TYPES[entry.kind], mtime=entry.mtime_ns // 1_000_000_000, size=entry.size_bytes
    )


def _list(manifest: Manifest, path: str, *, recursive: bool) -> list[api_pb2.FileEntry]:
    key = manifest.resolve(_key(manifest, path))
    if not manifest.is_directory(key):
        return [_file_entry(key, manifest.entries[key])]
    depth = key.count("/") + 1 if key else 0
    names = (name for name in manifest.below(key) if recursive or name.count("/") == depth)
    return [_file_entry(name, manifest.entries[name]) for name in names]


def _put_files(manifest: Manifest, files: Iterable[tuple[str, Entry]], *, overwrite: bool) -> None:
    for path, entry in files:
        key = _key(manifest, path)
        if not key or manifest.is_directory(key):
            raise TreeError(f"'{path}' is a directory; a file cannot take its place")
        if not overwrite and key in manifest.entries:
            raise PathExistsError(f"'{path}' exists already")
        manifest.put(key, entry)


async def _run(work: Callable[[], T]) -> T:
    """Do blocking ``work`` in a thread, with its errors as gRPC statuses."""
    try:
        return await asyncio.to_thread(work)
    except (PathMissingError, VolumeMissingError) as error:
        raise GRPCError(Status.NOT_FOUND, str(error)) from None
    except PathExistsError as error:
        raise GRPCError(Status.ALREADY_EXISTS, str(error)) from None
    except TreeError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
    except OSError as error:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the volume's store: {error.strerror}") from None


def _read_urls(state: ServerState, entry: Entry, start: int, length: int) -> list[str]:
    """A URL for each block that the range touches, for the part of the block that lies in the range."""
    urls = []
    position, end = start, start + length
    while position < end:
        index, offset = divmod(position, BLOCK_BYTES)
        part_bytes = min(BLOCK_BYTES - offset, end - position)
        urls.append(get_url(state, entry.blocks[index], offset, part_bytes))
        position += part_bytes
    return urls


class VolumeFileCalls(Calls):
    """``Volume*File*``."""

    async def _list_files(
        self, stream: Stream[ListRequest, ListResponse], response_type: Callable[..., ListResponse]
    ) -> None:
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
        volume = find_volume(self.state, request.volume_id)
        entries = await _run(lambda: _list(volume.manifest(), request.path, recursive=request.recursive))
        entries = entries[: request.max_entries or None]
        for first in range(0, len(entries), BATCH):
            await stream.send_message(response_type(entries=entries[first : first + BATCH]))

    async def VolumeListFiles(
        self, stream: Stream[api_pb2.VolumeListFilesRequest, api_pb2.VolumeListFilesResponse]
    ) -> None:
        """What lies at a path of a version 1 volume."""
        await self._list_files(stream, api_pb2.VolumeListFilesResponse)

    async def VolumeListFiles2(
        self, stream: Stream[api_pb2.VolumeListFiles2Request, api_pb2.VolumeListFiles2Response]
    ) -> None:
        """What lies at a path of a version 2 volume."""
        await self._list_files(stream, api_pb2.VolumeListFiles2Response)

    @unary
    async def VolumeGetFile2(self, request: api_pb2.VolumeGetFile2Request) -> api_pb2.VolumeGetFile2Response:
        """Where to read ``len`` bytes (0: all) of a file from byte ``start`` on."""
        volume = find_volume(self.state, request.volume_id)

        def find() -> Entry:
            manifest = volume.manifest()
            key = manifest.resolve(_key(manifest, request.path))
            if manifest.is_directory(key):
                raise TreeError(f"'{request.path}' is a directory")
            return manifest.entries[key]

        entry = await _run(find)
        start = min(request.start, entry.size_bytes)
        length = min(request.len or entry.size_bytes, entry.size_bytes - start)
        return api_pb2.VolumeGetFile2Response(
            get_urls=_read_urls(self.state, entry, start, length), size=entry.size_bytes, start=start, len=length
        )

    @unary
    async def VolumePutFiles2(self, request: api_pb2.VolumePutFiles2Request) -> api_pb2.VolumePutFiles2Response:
        """Commit files of which every block is there, or say which blocks to upload first."""
        volume = find_volume(self.state, request.volume_id)
        missing = await _run(lambda: self._missing_blocks(request))
        if missing:
            return api_pb2.VolumePutFiles2Response(missing_blocks=missing)
        mtime_ns = time.time_ns()
        files = []
        for file in request.files:
            mode = file.mode if file.HasField("mode") else DEFAULT_FILE_MODE
            blocks = tuple(block.contents_sha256.hex() for block in file.blocks)
            if len(blocks) != -(-file.size // BLOCK_BYTES):
                raise GRPCError(Status.INVALID_ARGUMENT, f"'{file.path}' does not have the blocks of its size")
            files.append((file.path, Entry(FILE, mode, mtime_ns, file.size, blocks)))
        overwrite = not request.disallow_overwrite_existing_files
        await _run(lambda: volume.change(lambda manifest: _put_files(manifest, files, overwrite=overwrite)))
        return api_pb2.VolumePutFiles2Response()

    def _missing_blocks(
        self, request: api_pb2.VolumePutFiles2Request
    ) -> list[api_pb2.VolumePutFiles2Response.MissingBlock]:
        missing: dict[str, api_pb2.VolumePutFiles2Response.MissingBlock] = {}
        for file_index, file in enumerate(request.files):
            for block_index, block in enumerate(file.blocks):
                sha256 = block.contents_sha256.hex()
                if sha256 == EMPTY_SHA256:
                    self.state.blobs.put(b"")
                elif sha256 not in missing and not self.state.blobs.claim(sha256):
                    missing[sha256] = api_pb2.VolumePutFiles2Response.MissingBlock(
                        file_index=file_index, block_index=block_index, put_url=put_url(self.state, sha256)
                    )
        return list(missing.values())

    @unary
    async def VolumePutFiles(self, request: api_pb2.VolumePutFilesRequest) -> Empty:
        """Commit files whose contents were uploaded as those of mounts are (version 1)."""
        volume = find_volume(self.state, request.volume_id)
        overwrite = not request.disallow_overwrite_existing_files

        def commit() -> None:
            files = []
            for file in request.files:
                mode = file.mode if file.HasField("mode") else DEFAULT_FILE_MODE
                blocks, size_bytes = split_blob(file.sha256_hex, self.state.blobs)
                files.append((file.filename, Entry(FILE, mode, time.time_ns(), size_bytes, blocks)))
            volume.change(lambda manifest: _put_files(manifest, files, overwrite=overwrite))

        await _run(commit)
        return Empty()

    async def _remove(self, request: api_pb2.VolumeRemoveFileRequest | api_pb2.VolumeRemoveFile2Request) -> Empty:
        def remove(manifest: Manifest) -> None:
            manifest.remove(_key(manifest, request.path), recursive=request.recursive)

        volume = find_volume(self.state, request.volume_id)
        await _run(lambda: volume.change(remove))
        return Empty()

    @unary
    async def VolumeRemoveFile(self, request: api_pb2.VolumeRemoveFileRequest) -> Empty:
        """Remove a path of a version 1 volume."""
        return await self._remove(request)

    @unary
    async def VolumeRemoveFile2(self, request: api_pb2.VolumeRemoveFile2Request) -> Empty:
        """Remove a path of a version 2 volume."""
        return await self._remove(request)

    async def _copy(self, request: api_pb2.VolumeCopyFilesRequest | api_pb2.VolumeCopyFiles2Request) -> Empty:
        def copy(manifest: Manifest) -> None:
            destination = _key(manifest, request.dst_path)
            into = len(request.src_paths) > 1 or request.dst_path.endswith("/")
            if into and not manifest.is_directory(destination):
                raise TreeError(f"'{request.dst_path}' is not a directory")
            for source in request.src_paths:
                manifest.copy_path(_key(manifest, source), destination, recursive=request.recursive)

        volume = find_volume(self.state, request.volume_id)
        await _run(lambda: volume.change(copy))
        return Empty()

    @unary
    async def VolumeCopyFiles(self, request: api_pb2.VolumeCopyFilesRequest) -> Empty:
        """Copy inside a version 1 volume, as ``cp`` does."""
        return await self._copy(request)

    @unary
    async def VolumeCopyFiles2(self, request: api_pb2.VolumeCopyFiles2Request) -> Empty:
        """Copy inside a version 2 volume, as ``cp`` does."""
        return await self._copy(request)

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator

import modal
import pytest

from skyrl_magic.cloud import volumes
from skyrl_magic.cloud.volumes import ModalVolume, mounted_volume
from skyrl_magic.core.errors import BackendError, NotFound, TooLarge
from skyrl_magic.core.ports import MountedVolume


@pytest.fixture
def name(modal_client: modal.Client) -> Iterator[str]:
    """A name of no volume; what is made under it goes with the test."""
    name = f"volume-{uuid.uuid4().hex}"
    yield name
    modal.Volume.objects.delete(name, allow_missing=True, client=modal_client)


@pytest.mark.parametrize("version", [None, 1, 2])
def test_a_volume_that_is_there_is_taken_as_it_is(modal_client: modal.Client, name: str, version: int | None) -> None:
    modal.Volume.objects.create(name, version=version, client=modal_client)
    volume, mounted = mounted_volume(name, modal_client)
    assert mounted == MountedVolume(version or 1)
    assert volume.object_id == modal.Volume.from_name(name, client=modal_client).hydrate().object_id


def test_a_new_volume_is_of_version_2(modal_client: modal.Client, name: str) -> None:
    assert mounted_volume(name, modal_client)[1] == MountedVolume(2, is_new=True)
    assert mounted_volume(name, modal_client)[1] == MountedVolume(2)


def test_a_new_volume_names_the_nearest(modal_client: modal.Client, name: str) -> None:
    modal.Volume.objects.create(name, client=modal_client)
    wrong = name[:-3] + name[-2:]
    try:
        assert mounted_volume(wrong, modal_client)[1] == MountedVolume(2, is_new=True, near=name)
    finally:
        modal.Volume.objects.delete(wrong, client=modal_client)


def test_who_is_second_takes_what_the_first_has_made(
    modal_client: modal.Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(name: str, client: modal.Client) -> str:
        modal.Volume.objects.create(name, client=client)
        return name

    monkeypatch.setattr(volumes, "_nearest", meanwhile)
    assert mounted_volume(name, modal_client)[1] == MountedVolume(1)


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_committed_is_read(modal_client: modal.Client, name: str, version: int) -> None:
    modal.Volume.objects.create(name, version=version, client=modal_client)
    content = bytes(range(256)) * 5000
    with modal.Volume.from_name(name, client=modal_client).batch_upload() as batch:
        batch.put_file(io.BytesIO(content), "folder/file")
    volume = ModalVolume(name, modal_client)
    assert [(file.path, file.is_folder) for file in volume.list("/")] == [("folder", True)]
    (file,) = volume.list("folder")
    assert (file.path, file.name, file.size_bytes, file.is_folder) == ("folder/file", "file", len(content), False)
    assert volume.read("folder/file", len(content)) == content
    with pytest.raises(TooLarge):
        volume.read("folder/file", len(content) - 1)
    with pytest.raises(NotFound, match="there is no nothing on volume"):
        volume.read("nothing", 1)
    with pytest.raises(NotFound):
        volume.list("nowhere")


def test_a_name_that_cannot_be_is_refused(modal_client: modal.Client) -> None:
    with pytest.raises(BackendError, match="volume a/b: Invalid Volume name"):
        mounted_volume("a/b", modal_client)

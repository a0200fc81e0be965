from __future__ import annotations

from modal_proto.api_grpc import ModalClientBase

from skyrl_magic.loopback.server import HANDLERS, covered_methods


def test_every_handler_method_is_one_of_modals() -> None:
    public = {name for handler in HANDLERS for name in vars(handler) if name[0].isupper()}
    assert public <= ModalClientBase.__abstractmethods__
    assert public == {name for name, covered in covered_methods().items() if covered}


def test_what_sessions_need_is_covered() -> None:
    needed = """
        AuthTokenGet EnvironmentGetOrCreate AppGetOrCreate ImageGetOrCreate ImageJoinStreaming
        MountBatchedCheckExistence MountPutFile MountGetOrCreate VolumeGetOrCreate SecretGetOrCreate
        SandboxCreateV2 SandboxGetFromNameV2 SandboxTagsGetV2 SandboxTagsSetV2 SandboxGetTunnelsV2 SandboxWaitV2
        SandboxTerminateV2 SandboxGetTaskIdV2 SandboxGetCommandRouterAccess SandboxCreate SandboxGetTaskId
        TaskGetCommandRouterAccess SandboxTagsGet SandboxTagsSet SandboxGetTunnels SandboxWait SandboxTerminate
        SandboxGetLogs SandboxListV2 VolumeList VolumeDelete VolumeRename VolumeListFiles2 VolumeGetFile2
        VolumePutFiles2 VolumeRemoveFile2 VolumeCopyFiles2
    """
    assert [name for name in needed.split() if not covered_methods()[name]] == []

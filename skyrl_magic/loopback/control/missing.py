"""Why the server lacks what it lacks: the words of its refusals and of its table (``coverage``)."""

from __future__ import annotations

import re

_NO_FUNCTIONS = "functions, classes and web endpoints do not run here: the server runs sandboxes"
#: Pattern of method names, and why there are none of these. The first that matches counts.
_REASONS = (
    (r".*Snapshot.*|SandboxRestore.*", "sandboxes cannot be snapshotted here: keep what must last on a volume"),
    (r"PersistentSandbox.*", "persistent sandboxes are not known here: keep what must last on a volume"),
    (r"TaskContainer.*|SandboxContainer.*", "a sandbox here is one container, without sidecars"),
    (r"Task(Unm|M)ountDirectory", "an image is nothing that could be mounted here: its files are this machine's own"),
    (
        r"Task(SetNetworkAccess|SetOutboundPolicy)|SandboxSetOutboundPolicy.*",
        "a sandbox's network is open or blocked from its start",
    ),
    (r"SandboxCreateConnectToken.*|Tunnel.*", "no port of a sandbox is opened here"),
    (r"SandboxGet(ResourceUsage|Stats.*|TimeRangeStats)|.*TimeRangeStats|Metrics.*", "nothing is measured here"),
    (r"Sandbox(SetName|WaitUntilReady)", "names are given at the start, and there are no readiness probes"),
    (r"SharedVolume.*", "network file systems are not known here: use a volume"),
    (r"VolumeGetFile", "clients of today call VolumeGetFile2, for volumes of either version"),
    (r"Image.*", "images are not built or published here, only accepted"),
    (r"(Function|Attempt|Map|Class|Server|Flash|Cluster|Template|Endpoint|Container).*", _NO_FUNCTIONS),
    (r"Task(ClusterHello|CurrentInputs|Result)", _NO_FUNCTIONS),
    (r"App.*", "there is nothing to deploy here: apps are the folders of sandboxes"),
    (r"Dict.*|Queue.*", "there are no dicts and queues here"),
    (r"Proxy.*|Domain.*|Curl.*", "there are no proxies and no domains here"),
    (
        r"Workspace.*|Environment.*|Token.*|WebhookToken.*|ServiceUser.*|UserGroup.*|AuditLog.*",
        "there is one user, who pays nothing: no members, roles, budgets, bills and audit logs",
    ),
    (r"(Object|CliCommand)Suggest", "no spelling is corrected here"),
)


def why_missing(name: str) -> str:
    """Why the method is not there, in one clause; empty where nothing is known of it."""
    return next((reason for pattern, reason in _REASONS if re.fullmatch(pattern, name)), "")

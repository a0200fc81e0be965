"""Completion as IPython asks for it in a terminal, and as a notebook asks its kernel for it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from skyrl_magic.core.gpus import MAX_COUNTS
from skyrl_magic.core.options import OPTIONS, START_SCOPES, TRAVEL_SCOPES
from skyrl_magic.ui.completion import complete
from skyrl_magic.ui.matcher import register, unregister

ALL_FLAGS = [option.flag for option in OPTIONS]
KERNEL_TIMEOUT_S = 60


class Names:
    """Magics with two sessions."""

    def session_names(self) -> list[str]:
        return ["l4-abc123", "mine"]

    def run_ids(self) -> list[str]:
        return ["k3f9aa", "x7x7x7"]


@contextlib.contextmanager
def new_shell() -> Iterator[InteractiveShell]:
    """A shell with a profile and a history of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", folder)
        found = InteractiveShell()
        yield found
        assert found.history_manager is not None
        found.history_manager.end_session()


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    with new_shell() as found:
        register(found, Names())
        yield found


def completed(shell: InteractiveShell, text: str) -> list[str]:
    """The lines that the completions would make of ``text``, where ``|`` is the cursor (else at the end)."""
    cursor = text.find("|") if "|" in text else len(text)
    text = text.replace("|", "")
    with provisionalcompleter():
        return [
            text[: found.start] + found.text + text[found.end :] for found in shell.Completer.completions(text, cursor)
        ]


# --- in IPython -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", ["%%skyrl_modal", "%skyrl_modal"])
def test_all_flags(shell: InteractiveShell, magic: str) -> None:
    assert completed(shell, f"{magic} ") == [f"{magic} {flag}" for flag in ALL_FLAGS]
    assert completed(shell, f"{magic} --") == [f"{magic} {flag}" for flag in ALL_FLAGS]
    assert completed(shell, f"  {magic} --gp") == [f"  {magic} --gpu"]


def test_a_flag_with_hyphens_is_one_word(shell: InteractiveShell) -> None:
    assert completed(shell, "%%skyrl_modal --no-") == ["%%skyrl_modal --no-ray", "%%skyrl_modal --no-raise-error"]
    assert completed(shell, "%%skyrl_modal --idle-t") == ["%%skyrl_modal --idle-timeout"]


def test_start_takes_no_options_of_a_run(shell: InteractiveShell) -> None:
    flags = [option.flag for option in OPTIONS if option.scope in START_SCOPES]
    assert completed(shell, "%skyrl_start --") == [f"%skyrl_start {flag}" for flag in flags]


@pytest.mark.parametrize("names", ["", "a,b ", "a, b "])
def test_push_and_pull_take_names_and_options(shell: InteractiveShell, names: str) -> None:
    flags = [option.flag for option in OPTIONS if option.scope in TRAVEL_SCOPES]
    for magic in ("%skyrl_push", "%skyrl_pull"):
        assert completed(shell, f"{magic} {names}--") == [f"{magic} {names}{flag}" for flag in flags]
        assert completed(shell, f"{magic} {names}--session m") == [f"{magic} {names}--session mine"]


def test_a_flag_is_offered_once_unless_it_repeats(shell: InteractiveShell) -> None:
    line = "%%skyrl_modal --gpu L4 --secret hf --env 'A=b c' --no-ray "
    offered = [found[len(line) :] for found in completed(shell, line)]
    assert set(ALL_FLAGS) - set(offered) == {"--gpu", "--no-ray", "--ray"}


@pytest.mark.parametrize("typed", ["", "n", "A100:", "A100-", "a100:", "H100!", "rtx", "A10"])
@pytest.mark.parametrize("glue", [" ", "="])
def test_gpus(shell: InteractiveShell, typed: str, glue: str) -> None:
    offered = completed(shell, f"%%skyrl_modal --gpu{glue}{typed}")
    name, colon, _ = typed.partition(":")
    if colon:
        expected = [f"{name}:{count}" for count in range(1, MAX_COUNTS["A100"] + 1)]
    else:
        expected = [text for text in [*MAX_COUNTS, "none"] if text.lower().startswith(name.lower())]
    assert offered == [f"%%skyrl_modal --gpu{glue}{text}" for text in expected]
    assert offered


def test_counts_end_where_modal_ends(shell: InteractiveShell) -> None:
    assert completed(shell, "%skyrl_modal --gpu A10:")[-1] == "%skyrl_modal --gpu A10:4"


def test_each_of_several_gpus(shell: InteractiveShell) -> None:
    line = "%skyrl_modal --gpu H100:2,L4"
    assert completed(shell, line) == [line, f"{line}0S"]


def test_values(shell: InteractiveShell) -> None:
    assert completed(shell, "%skyrl_modal --backend ") == [
        f"%skyrl_modal --backend {b}" for b in ("auto", "modal", "local")
    ]
    assert completed(shell, "%skyrl_modal --session m") == ["%skyrl_modal --session mine"]
    assert len(completed(shell, "%skyrl_modal --image novaskyai/skyrl-train-ray-2.5")) == 1


@pytest.mark.parametrize("line", ["%skyrl_modal --secret |", "%skyrl_modal --env |", "%skyrl_modal --volume sky|"])
def test_no_values_are_made_up(line: str) -> None:
    found = complete(line[:-1], 0, len(line) - 1, Names())
    assert found is not None
    assert found.texts == ()


def test_sessions_to_stop(shell: InteractiveShell) -> None:
    assert completed(shell, "%skyrl_stop ") == ["%skyrl_stop l4-abc123", "%skyrl_stop mine", "%skyrl_stop --all"]
    assert completed(shell, "%skyrl_stop l4-") == ["%skyrl_stop l4-abc123"]
    assert completed(shell, "%skyrl_use l4-") == ["%skyrl_use l4-abc123"]
    assert "%skyrl_runs --limit" in completed(shell, "%skyrl_runs --l")
    assert completed(shell, "%skyrl_stop mine ") == ["%skyrl_stop mine l4-abc123"]


def test_runs_to_read_to_go_back_to_and_to_end(shell: InteractiveShell) -> None:
    for magic in ("logs", "attach", "cancel"):
        assert completed(shell, f"%skyrl_{magic} ")[:2] == [f"%skyrl_{magic} k3f9aa", f"%skyrl_{magic} x7x7x7"]
        assert completed(shell, f"%skyrl_{magic} k3") == [f"%skyrl_{magic} k3f9aa"]
    assert completed(shell, "%skyrl_attach k3f9aa ") == ["%skyrl_attach k3f9aa --from", "%skyrl_attach k3f9aa --help"]
    assert completed(shell, "%skyrl_attach --from ") == ["%skyrl_attach --from start"]
    assert completed(shell, "%skyrl_cancel k3f9aa ") == ["%skyrl_cancel k3f9aa x7x7x7"]
    assert completed(shell, "%skyrl_cancel --session m") == ["%skyrl_cancel --session mine"]


def test_logs(shell: InteractiveShell) -> None:
    assert completed(shell, "%skyrl_logs --st") == ["%skyrl_logs --stdout", "%skyrl_logs --stderr"]
    assert completed(shell, "%skyrl_logs r-1 --ta") == ["%skyrl_logs r-1 --tail"]


def test_folders_for_repo(shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SkyRL", "SkyRL-2", "with space", ".hidden", "quo'te"):
        (tmp_path / name / "skyrl-gym").mkdir(parents=True)
    (tmp_path / "SkyRL.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    lead = "%skyrl_modal --repo "
    assert completed(shell, lead) == [f"{lead}{text}" for text in ("none", "SkyRL/", "SkyRL-2/")]
    assert completed(shell, f"{lead}Sky") == [f"{lead}SkyRL/", f"{lead}SkyRL-2/"]
    assert completed(shell, f"{lead}SkyRL/s") == [f"{lead}SkyRL/skyrl-gym/"]
    assert completed(shell, f"{lead}~/SkyRL/") == [f"{lead}~/SkyRL/skyrl-gym/"]
    assert completed(shell, f"{lead}{tmp_path}/.h") == [f"{lead}{tmp_path}/.hidden/"]
    assert completed(shell, f"{lead}~no-such-user-here/x") == completed(shell, "%other ~no-such-user-here/x") == []


@pytest.mark.parametrize(
    "text",
    [
        "%skyrl_modal --gpu L4 nvidia-smi --gp",
        "%skyrl_modal -- --gp",
        "%skyrl_modal --no-such --gp",
        "%%skyrl_modal --gpu L4\nnvidia-smi --gp",
        "%%skyrl_modal --gpu L4\n%skyrl_modal --gp",
        "%%bash\n%skyrl_modal --gp",
        "import os\n%%skyrl_modal --gp",
        "x = 1 --gp",
        "%skyrl_sessions --gp",
        "%other --gp",
        "%skyrl_modal",
        "%%skyrl_mod",
        "",
    ],
)
def test_elsewhere_nothing_of_ours_is_offered(text: str) -> None:
    lines = text.split("\n")
    assert complete(text, len(lines) - 1, len(lines[-1]), Names()) is None


def test_a_line_magic_completes_in_any_line_of_a_python_cell(shell: InteractiveShell) -> None:
    assert completed(shell, "import os\nif True:\n    %skyrl_modal --gp") == [
        "import os\nif True:\n    %skyrl_modal --gpu"
    ]


def test_the_cursor_in_the_middle_of_a_line(shell: InteractiveShell) -> None:
    assert completed(shell, "%%skyrl_modal --gp| --no-ray\nnvidia-smi") == ["%%skyrl_modal --gpu --no-ray\nnvidia-smi"]


def test_other_completions_stay_away_and_come_back(shell: InteractiveShell) -> None:
    shell.user_ns["timeout_of_mine"] = 1
    assert completed(shell, "%%skyrl_modal --timeo") == ["%%skyrl_modal --timeout"]
    assert "%%time" in completed(shell, "%%tim")
    assert completed(shell, "timeout_of_m") == ["timeout_of_mine"]


def test_registering_twice_and_unregistering() -> None:
    with new_shell() as shell:
        matchers = list(shell.Completer.custom_matchers)
        register(shell, Names())
        register(shell, Names())
        assert len(shell.Completer.custom_matchers) == len(matchers) + 1
        unregister(shell, Names())
        assert shell.Completer.custom_matchers == matchers
        unregister(shell, Names())


pieces = st.sampled_from(
    ["%%skyrl_modal ", "%skyrl_stop ", "%skyrl_logs ", *ALL_FLAGS, " ", "=", "'", "\\", "\n", "A1", ":", "~"]
)


@given(st.lists(pieces | st.text(max_size=3), max_size=8).map("".join), st.data())
def test_any_text_with_the_cursor_anywhere(text: str, data: st.DataObject) -> None:
    lines = text.split("\n")
    number = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[number])))
    found = complete(text, number, column, Names())
    if found is not None:
        assert lines[number][:column].endswith(found.fragment)
        assert all(option.lower().startswith(found.fragment.lower()) for option in found.texts)


# --- in a notebook's kernel -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel() -> Iterator[BlockingKernelClient]:
    """A real kernel with the extension loaded; its sockets lie in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="sk-") as folder:
        env = os.environ | {"IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder, "SKYRL_MAGIC_LOOPBACK_DIR": folder}
        manager = KernelManager(kernel_name="python3", transport="ipc", connection_file=f"{folder}/k.json")
        manager.start_kernel(env=env, cwd=folder)
        client: BlockingKernelClient = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=KERNEL_TIMEOUT_S)
            reply = client.execute("%load_ext skyrl_magic", reply=True, timeout=KERNEL_TIMEOUT_S)
            assert reply["content"]["status"] == "ok", reply["content"]
            yield client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()


def asked(kernel: BlockingKernelClient, text: str) -> Sequence[str]:
    """What the front end would make of the cell, where ``|`` is the cursor."""
    cursor = text.index("|")
    cell = text.replace("|", "")
    content = kernel.complete(cell, cursor, reply=True, timeout=KERNEL_TIMEOUT_S)["content"]
    return [cell[: content["cursor_start"]] + match + cell[content["cursor_end"] :] for match in content["matches"]]


def test_a_notebook_completes_the_first_line_of_a_cell(kernel: BlockingKernelClient) -> None:
    body = "\nnvidia-smi\necho --gp"
    assert asked(kernel, f"%%skyrl_modal --idle-|{body}") == [f"%%skyrl_modal --idle-timeout{body}"]
    assert asked(kernel, f"%%skyrl_modal --gpu A100:|{body}") == [
        f"%%skyrl_modal --gpu A100:{count}{body}" for count in range(1, 9)
    ]
    assert f"%%skyrl_modal{body}" in asked(kernel, f"%%skyrl_mo|{body}")


def test_a_notebook_does_not_complete_the_body(kernel: BlockingKernelClient) -> None:
    assert not [cell for cell in asked(kernel, "%%skyrl_modal --gpu L4\necho --gp|") if "--gpu" in cell.split("\n")[1]]


def test_completion_needs_no_server_and_no_client(kernel: BlockingKernelClient) -> None:
    asked(kernel, "%%skyrl_modal --session |")
    code = "import sys; assert not {'modal', 'grpclib', 'ipywidgets', 'ray'} & set(sys.modules), sorted(sys.modules)"
    reply = kernel.execute(code, reply=True, timeout=KERNEL_TIMEOUT_S)
    assert reply["content"]["status"] == "ok", reply["content"]["evalue"]

"""Comms of Python cells beyond their own messages: a page that is loaded anew, and what a front end opens by itself."""

from __future__ import annotations

from typing import Any

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.kernel.conftest import CELL_TIMEOUT_S, SETTINGS, Kernel, make_kernel
from tests.kernel.running import Running

PYTHON = "%%skyrl_python\n"
_CONTROL = "jupyter.widget.control"
#: A widget with a binary part, one in another, and one that is closed.
WIDGETS = """
import ipywidgets
label, gone = ipywidgets.Label('there'), ipywidgets.Label('gone')
image = ipywidgets.Image(value=b'\\x89PNG')
box = ipywidgets.VBox([label, image])
gone.close()
print(label.model_id, image.model_id, box.model_id)
"""


def send(kernel: Kernel, msg_type: str, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> str:
    """Send a message as a front end does; its id."""
    message = kernel.client.session.msg(msg_type, content, metadata=metadata)
    kernel.client.shell_channel.send(message)
    return str(message["header"]["msg_id"])


def reload(kernel: Kernel) -> dict[str, Any]:
    """What the front end hears first when it asks for all widgets."""
    send(kernel, "comm_open", {"comm_id": "c", "target_name": _CONTROL, "data": {}}, {"version": "1.0.0"})
    send(kernel, "comm_msg", {"comm_id": "c", "data": {"method": "request_states"}})
    while True:
        message = kernel.client.get_iopub_msg(timeout=CELL_TIMEOUT_S)
        if message["msg_type"] in ("comm_msg", "comm_close") and message["content"]["comm_id"] == "c":
            send(kernel, "comm_close", {"comm_id": "c", "data": {}})
            return message


def comms(kernel: Kernel) -> set[str]:
    """The ids of the widgets that the notebook's kernel names."""
    asked = send(kernel, "comm_info_request", {"target_name": "jupyter.widget"})
    while True:
        reply = kernel.client.get_shell_msg(timeout=CELL_TIMEOUT_S)
        if reply["parent_header"]["msg_id"] == asked:
            return set(reply["content"]["comms"])


@pytest.fixture
def ids(kernel: Kernel) -> list[str]:
    """The ids of the session's widgets, of a new kernel."""
    kernel.run("%skyrl_start")
    kernel.run("%skyrl_restart")
    return kernel.run(PYTHON + WIDGETS).out.split()


@pytest.mark.parametrize("own", ["", "import ipywidgets; mine = ipywidgets.Image(value=b'GIF'); mine.model_id"])
def test_a_reload_is_told_of_all_widgets(kernel: Kernel, ids: list[str], own: str) -> None:
    mine = kernel.run(own).result.strip("'")
    answer = reload(kernel)
    data = answer["content"]["data"]
    states, paths = data["states"], data["buffer_paths"]
    label, image, box = ids
    assert states[label]["state"]["value"] == "there"
    assert states[box]["state"]["children"] == [f"IPY_MODEL_{label}", f"IPY_MODEL_{image}"]
    found = {path[0]: (path[1:], bytes(buffer)) for path, buffer in zip(paths, answer["buffers"], strict=True)}
    assert found[image] == (["state", "value"], b"\x89PNG")
    assert not mine or found[mine] == (["state", "value"], b"GIF")
    assert set(ids) <= comms(kernel)
    assert "gone" not in str(states)


def test_a_widget_that_was_closed_is_not_named(kernel: Kernel, ids: list[str]) -> None:
    kernel.run(PYTHON + "label.close()")
    assert ids[0] not in comms(kernel)
    assert ids[1] in comms(kernel)


def test_a_page_that_closes_a_widget_is_not_told_of_it_again(kernel: Kernel, ids: list[str]) -> None:
    send(kernel, "comm_close", {"comm_id": ids[0], "data": {}})
    states = reload(kernel)["content"]["data"]["states"]
    assert (ids[0] in states, ids[1] in states) == (False, True)


def test_widgets_of_a_kernel_that_ended_are_not_named(
    kernel: Kernel, loopback_server: ServerAddress, ids: list[str]
) -> None:
    other = make_kernel(kernel.folder, loopback_server)
    try:
        other.run(SETTINGS)
        other.run(PYTHON + "1")
        assert reload(other)["msg_type"] == "comm_close"  # it has none, and knows of none
        others = other.run(PYTHON + WIDGETS).out.split()
        # Both notebooks' widgets live in one kernel, and each page has its own.
        assert not set(ids) & set(reload(other)["content"]["data"]["states"])
        assert set(others) <= comms(other)
        other.run("%skyrl_restart")
    finally:
        other.close()
    assert set(ids) <= comms(kernel)
    assert not set(ids) & set(reload(kernel)["content"]["data"]["states"])
    assert not set(ids) & comms(kernel)


def test_widgets_of_a_session_that_was_stopped_are_not_named(kernel: Kernel, ids: list[str]) -> None:
    kernel.run("%skyrl_stop")
    assert not set(ids) & set(reload(kernel)["content"]["data"]["states"])
    assert not set(ids) & comms(kernel)


def test_while_another_notebooks_cell_runs_each_widget_is_asked(
    kernel: Kernel, loopback_server: ServerAddress, ids: list[str]
) -> None:
    other = make_kernel(kernel.folder, loopback_server)
    try:
        other.run(SETTINGS)
        running = Running(other, PYTHON + "import time\nprint('begun')\ntime.sleep(600)")
        running.until_text("begun")
        assert reload(kernel)["msg_type"] == "comm_close"
        asked = [send(kernel, "comm_msg", {"comm_id": i, "data": {"method": "request_state"}}) for i in ids]
        other.manager.interrupt_kernel()
        running.end()
    finally:
        other.close()
    answered: set[str] = set()
    while answered != set(asked):
        message = kernel.client.get_iopub_msg(timeout=CELL_TIMEOUT_S)
        if message["msg_type"] == "comm_msg" and message["content"]["data"].get("method") == "update":
            answered.add(message["parent_header"]["msg_id"])


TARGET = """
def opened(comm, message):
    comm.on_msg(lambda message: comm.send([message['content']['data'], opening]))
    opening = message['content']['data'], message['metadata']
get_ipython().kernel.comm_manager.register_target('tests.echo', opened)
"""


def hear(kernel: Kernel, comm_id: str) -> tuple[str, Any]:
    """The next message of a comm."""
    while True:
        message = kernel.client.get_iopub_msg(timeout=CELL_TIMEOUT_S)
        if message["content"].get("comm_id") == comm_id:
            return message["msg_type"], message["content"]["data"]


def test_a_comm_that_the_front_end_opens_finds_its_target_in_the_session(kernel: Kernel) -> None:
    kernel.run(PYTHON + TARGET)
    send(kernel, "comm_open", {"comm_id": "e", "target_name": "tests.echo", "data": {"a": 1}}, {"b": 2})
    send(kernel, "comm_msg", {"comm_id": "e", "data": "hello"})
    assert hear(kernel, "e") == ("comm_msg", ["hello", [{"a": 1}, {"b": 2}]])
    send(kernel, "comm_open", {"comm_id": "n", "target_name": "nobodys", "data": {}})
    assert hear(kernel, "n")[0] == "comm_close"


def test_the_notebooks_own_target_comes_first(kernel: Kernel) -> None:
    kernel.run(PYTHON + TARGET)
    kernel.run(TARGET.replace("[message['content']['data'], opening]", "'from here'"))
    send(kernel, "comm_open", {"comm_id": "o", "target_name": "tests.echo", "data": {}})
    send(kernel, "comm_msg", {"comm_id": "o", "data": "hello"})
    assert hear(kernel, "o") == ("comm_msg", "from here")


MAP = """
import ipywidgets, traitlets
class Map(ipywidgets.DOMWidget):
    _model_module = _view_module = traitlets.Unicode('jupyter-nowhere').tag(sync=True)
    _model_name = _view_name = traitlets.Unicode('Map').tag(sync=True)
Map()"""


def test_a_widget_without_its_front_end_says_so_once(kernel: Kernel) -> None:
    """JupyterLab alone shows "Click to show javascript error" in its place."""
    (line,) = [note for note in kernel.run(PYTHON + MAP).notes if "jupyter-nowhere" in note]
    assert "install the package here too" in line
    assert not any("jupyter-nowhere" in note for note in kernel.run(PYTHON + MAP).notes)
    assert not any("front end" in note for note in kernel.run(PYTHON + WIDGETS).notes)

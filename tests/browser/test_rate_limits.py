"""Floods through a real Jupyter Server, which drops a kernel's messages when they are too many or too large."""

from __future__ import annotations

import asyncio
import json
import urllib.request
import uuid
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.browser.conftest import Lab

FLOODS = 12
#: As fast as a kernel can show them: what their runs take beside that does not matter here.
LOOP = f"""
from skyrl_magic.core.protocol import Output
from skyrl_magic.ui.display import RunDisplay
data = "".join(f"{{n}}\\n" for n in range(200_000)).encode()
for _ in range({FLOODS}):
    display = RunDisplay("k3f9")
    display.feed(Output("k3f9", "stdout", 0, len(data), payload=data))
    display.close()
print("the end")
"""
CELL_TIMEOUT_S = 120


def _start_kernel(lab: Lab) -> str:
    request = urllib.request.Request(  # noqa: S310  (the lab's own address)
        f"{lab.url}api/kernels?token={lab.token}", data=b'{"name": "python3"}', method="POST"
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return str(json.load(answer)["id"])


async def _execute(socket: WebSocketClientConnection, code: str) -> list[dict[str, Any]]:
    """The messages that the server passes on of a cell, up to its end."""
    cell = uuid.uuid4().hex
    header = {
        "msg_id": cell,
        "msg_type": "execute_request",
        "username": "",
        "session": "s",
        "version": "5.3",
        "date": "",
    }
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await socket.write_message(json.dumps(request | {"buffers": []}))
    messages: list[dict[str, Any]] = []
    while True:
        text = await asyncio.wait_for(socket.read_message(), CELL_TIMEOUT_S)
        assert text is not None, "the server closed the connection"
        message = json.loads(text)
        if message["parent_header"].get("msg_id") == cell:
            messages.append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return messages


async def _floods(lab: Lab, kernel: str) -> list[dict[str, Any]]:
    address = f"{lab.url}api/kernels/{kernel}/channels?token={lab.token}".replace("http", "ws", 1)
    socket = await websocket_connect(address, max_message_size=1 << 30)
    messages = await _execute(socket, LOOP)
    socket.close()
    return messages


def test_of_floods_in_a_row_in_one_cell_each_shows_its_end(lab: Lab) -> None:
    kernel = _start_kernel(lab)
    messages = asyncio.run(_floods(lab, kernel))
    text = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
    assert "IOPub" not in text
    assert text.endswith("the end\n")
    assert text.count("\n100000\n") >= 1  # the first one's head came whole; those after it show less ...
    shown = [m["content"]["data"]["text/plain"] for m in messages if "data" in m["content"]]
    assert sum(s.endswith("\n199999") and "left out here" in s for s in shown) >= FLOODS  # ... and all their last lines

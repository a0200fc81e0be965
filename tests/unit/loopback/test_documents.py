from __future__ import annotations

from pathlib import Path

import pytest

from skyrl_magic.loopback.documents import ID_LENGTH, Table, id_from_digest, new_id, read_json, write_json
from skyrl_magic.loopback.objects import Secret


def test_ids() -> None:
    assert len({new_id("vo") for _ in range(100)}) == 100
    letters = new_id("sb").removeprefix("sb-")
    assert len(letters) == ID_LENGTH
    assert letters.isalnum()
    assert id_from_digest("im", b"x" * 32) == id_from_digest("im", b"x" * 32) != id_from_digest("im", b"y" * 32)


def test_documents_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "doc.json"
    assert read_json(path) is None
    write_json(path, {"a": "\udce9é"})
    assert read_json(path) == {"a": "\udce9é"}
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": "\udce9é"}
    assert [found.name for found in tmp_path.iterdir()] == ["doc.json"]


def test_tables_outlive_their_process(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    table: Table[Secret] = Table(path, Secret)
    table.put(Secret("st-1", "main", {"A": "1"}, "one"))
    table.put(Secret("st-2", "main", {"B": "2"}))
    table.remove("st-2")
    table.remove("st-3")
    again: Table[Secret] = Table(path, Secret)
    assert [secret.name for secret in again] == ["one"]
    assert "st-1" in again
    assert again.get("st-2") is None
    found = again.get("st-1")
    assert found is not None
    assert found.values == {"A": "1"}

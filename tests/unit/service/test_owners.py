from __future__ import annotations

import json
import multiprocessing
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.service import owners
from skyrl_magic.service.owners import Owner, asker, is_asker, is_known, meet, owner, take_problems, user_at_host
from tests.unit.service.processes import ProcessBackend


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, and a process that has met nobody; its configuration folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(owners, "_known", {})
    yield tmp_path / ".config" / "skyrl_magic"
    take_problems()


class Account(ProcessBackend):
    """A backend that counts how often it is asked who is asking."""

    def __init__(self, whose: str | None, account: str = "key", name: str = "modal") -> None:
        super().__init__(Path())
        self.name, self.account, self.whose = name, account, whose
        self.asked = 0

    def owner(self) -> str | None:
        self.asked += 1
        return self.whose


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new kernel."""
    monkeypatch.setattr(owners, "_known", {})


def test_an_accounts_user_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    account = Account("ann (us-1)")
    assert not is_known("modal")
    for _ in range(2):
        meet(account)
        meet(account)
        assert is_known("modal")
        assert owner("modal") == Owner("ann (us-1)")
        forget(monkeypatch)
        assert owner("modal") == Owner("ann (us-1)")  # remembered, for who asks nobody
    assert account.asked == 1
    assert stat.S_IMODE((home / "owners.json").stat().st_mode) == 0o600


def test_another_account_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    meet(Account("ann (us-1)"))
    for _ in range(2):  # in this process, and in a new one
        meet(Account("bob (us-2)", account="other"))
        assert owner("modal").name == "bob"
        forget(monkeypatch)


def test_each_backend_has_an_owner_of_its_own() -> None:
    meet(Account("ann (us-1)"))
    meet(Account("root (us-local)", name="local"))
    assert (owner("modal").text, owner("local").text) == ("ann (us-1)", "root (us-local)")


def test_an_account_without_a_token_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account("ann (us-1)", account="")
    meet(account)
    forget(monkeypatch)
    assert owner("modal") == Owner(user_at_host())
    meet(account)
    assert account.asked == 2


def test_without_a_word_of_the_account_an_id_is_kept(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    meet(Account(None))
    first = owner("modal")
    assert first.text == first.name == first.id
    assert "@" not in first.text
    assert stat.S_IMODE((home / "owner").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["owner"]
    monkeypatch.setattr(socket, "gethostname", lambda: "another-container")
    forget(monkeypatch)
    assert owner("modal") == first
    meet(Account(None))
    assert owner("modal") == first


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe"])
def test_a_damaged_id_is_made_anew(monkeypatch: pytest.MonkeyPatch, home: Path, damage: bytes) -> None:
    home.mkdir(parents=True)
    (home / "owner").write_bytes(damage)
    meet(Account(None))
    first = owner("modal")
    forget(monkeypatch)
    meet(Account(None))
    assert owner("modal") == first


@pytest.mark.parametrize("text", ["", "[]", '{"modal": 7}', '{"modal": {"account": "key", "owner": 7}}', "\0"])
def test_a_damaged_memory_is_made_anew(home: Path, text: str) -> None:
    home.mkdir(parents=True)
    (home / "owners.json").write_text(text)
    meet(Account("ann (us-1)"))
    assert json.loads((home / "owners.json").read_text())["modal"]["owner"] == "ann (us-1)"


def test_where_links_are_not_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    meet(Account(None))
    first = owner("modal")
    forget(monkeypatch)
    meet(Account(None))
    assert owner("modal") == first


def test_a_home_that_cannot_be_written(home: Path) -> None:
    home.parent.mkdir()
    home.write_text("a file where the folder should be")
    meet(Account("ann (us-1)", name="local"))
    assert owner("local").name == "ann"
    assert take_problems() == []
    meet(Account(None))
    assert owner("modal").text == user_at_host()
    (problem,) = take_problems()
    assert problem.startswith(f"who owns your sessions cannot be kept in {home} (")
    assert problem.endswith(f"they are {user_at_host()}'s, and not found again when this machine has another name")


def _race(start: object, answers: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    meet(Account(None))
    answers.put(owner("modal").text)  # type: ignore[attr-defined]


def test_kernels_that_start_at_once_have_one_id() -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(8), context.SimpleQueue()
    racers = [context.Process(target=_race, args=(start, answers)) for _ in range(8)]
    for racer in racers:
        racer.start()
    found = {answers.get() for _ in racers}
    for racer in racers:
        racer.join()
    assert len(found) == 1


@pytest.mark.parametrize(
    ("text", "is_mine"),
    [
        ("ann (us-1)", True),
        ("anne (us-1)", True),
        ("ann (us-2)", False),
        ("ann", False),
        ("", False),
        ("ann@elsewhere", False),
    ],
)
def test_what_an_owner_owns(text: str, is_mine: bool) -> None:  # noqa: FBT001
    assert Owner("ann (us-1)").owns(text) == is_mine


def test_what_an_earlier_version_wrote_is_the_owners() -> None:
    assert Owner("ann (us-1)").owns(user_at_host())
    assert Owner("ann-0123456789ab").owns(user_at_host())


def test_who_asks_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    meet(Account("ann (us-1)"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert asker("modal") == "ann"
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/ann/lesson 1.ipynb")
    assert asker("modal") == "ann (lesson 1.ipynb)"
    assert is_asker("ann (lesson 1.ipynb)", "modal")
    assert is_asker("ann (other.ipynb)", "modal")
    assert is_asker(f"{user_at_host()} (lesson 1.ipynb)", "modal")
    assert not is_asker("anne", "modal")

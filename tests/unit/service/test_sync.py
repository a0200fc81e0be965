from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import CheckoutError
from skyrl_magic.service.checkout import Checkout, CheckoutReader, Entry
from skyrl_magic.service.session import Session
from skyrl_magic.service.sync import LARGE_BYTES, MANY_FILES, CheckoutSync, Sent
from tests.unit.service.conftest import Recorder, World, sandbox_of


class Synced:
    """A session whose checkout is compared with the user's by looking at both folders."""

    def __init__(self, session: Session, checkout: Checkout) -> None:
        assert session.sync is not None
        self.session, self.sync, self.mine = session, session.sync, checkout.root
        self.theirs = sandbox_of(session).checkout

    def send(self) -> Sent:
        return self.sync.send(self.session.channel)

    def same(self) -> Sent:
        """Send, and both folders are the same."""
        sent = self.send()
        assert tree(self.theirs) == tree(self.mine)
        return sent


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """What lies in a folder: contents, modes, targets."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("l", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("d",)
        else:
            found[name] = ("f", path.stat().st_mode, path.read_bytes())
    return found


@pytest.fixture
def synced(world: World, checkout: Checkout) -> Synced:
    return Synced(world.start(world.request(checkout)), checkout)


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_what_was_uploaded_is_not_sent_again(synced: Synced) -> None:
    assert synced.same() == Sent()


def test_into_an_empty_container_everything_is_sent(world: World, checkout: Checkout) -> None:
    (checkout.root / "empty").mkdir()
    (checkout.root / "link").symlink_to("skyrl-gym/gym.py")
    session = world.start()
    sync = CheckoutSync(CheckoutReader(checkout))
    sent = sync.send(session.channel)
    assert tree(sandbox_of(session).checkout) == tree(checkout.root)
    assert (sent.files, sent.size_bytes) == (2, len("gym\n") + len("[project]\n"))


def test_only_what_changed_is_sent(synced: Synced) -> None:
    (synced.mine / "new.txt").write_text("new\n")
    (synced.mine / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    sent = synced.same()
    assert (sent.files, sent.size_bytes, sent.removed) == (2, 4 + 21, 0)
    assert synced.same() == Sent()


def test_a_large_file_travels_in_parts(synced: Synced) -> None:
    data = os.urandom(3 * protocol.CHUNK_BYTES + 17)
    (synced.mine / "large.bin").write_bytes(data)
    sent = synced.same()
    assert (sent.files, sent.size_bytes) == (1, len(data))


def test_deletions_take_empty_folders_along(synced: Synced) -> None:
    (synced.mine / "a" / "b").mkdir(parents=True)
    (synced.mine / "a" / "b" / "file").touch()
    synced.same()
    shutil.rmtree(synced.mine / "a")
    assert synced.same().removed == 1


def test_of_a_changed_mode_no_bytes_travel(synced: Synced) -> None:
    (synced.mine / "pyproject.toml").chmod(0o755)
    assert synced.same() == Sent()
    assert (synced.theirs / "pyproject.toml").stat().st_mode & 0o777 == 0o755


def test_names_of_any_bytes(synced: Synced) -> None:
    for name in (b"two\nlines", b"latin-\xe9", b" blank ", b"-dash", "ünï".encode(), b"quote'\"\\"):
        Path(os.fsdecode(os.fsencode(synced.mine) + b"/" + name)).write_bytes(name)
    synced.same()
    Path(os.fsdecode(os.fsencode(synced.mine) + b"/latin-\xe9")).unlink()
    assert synced.same().removed == 1


def _file(path: Path) -> None:
    path.write_text("a file\n")


def _link(path: Path) -> None:
    path.symlink_to("skyrl-gym")


def _link_to_file(path: Path) -> None:
    path.symlink_to("pyproject.toml")


def _link_out(path: Path) -> None:
    path.symlink_to("/tmp")  # noqa: S108


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "gym.py").write_text("inside\n")


def _empty(path: Path) -> None:
    path.mkdir()


KINDS = [_file, _link, _link_to_file, _link_out, _folder, _empty]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("before", KINDS, ids=lambda make: make.__name__)
def test_a_path_becomes_something_else(synced: Synced, before: Callable[[Path], None]) -> None:
    path = synced.mine / "path"
    for after in KINDS:
        before(path)
        synced.same()
        _remove(path)
        after(path)
        synced.same()
        assert (synced.theirs / "skyrl-gym" / "gym.py").read_text() == "gym\n"
        _remove(path)
    assert not Path("/tmp/gym.py").exists()  # noqa: S108


# --- what a run wrote -------------------------------------------------------------------------------------------------


def test_what_a_run_wrote_is_kept_until_the_user_changes_it(world: World, synced: Synced) -> None:
    world.run(synced.session, "echo run > pyproject.toml; echo run > result; mkdir out; touch out/x")
    (synced.mine / "skyrl-gym" / "gym.py").write_text("new\n")
    assert synced.send().files == 1
    assert (synced.theirs / "pyproject.toml").read_text() == "run\n"
    assert (synced.theirs / "result").read_text() == "run\n"
    assert (synced.theirs / "out" / "x").exists()
    (synced.mine / "pyproject.toml").write_text("mine\n")
    assert synced.send().files == 1
    assert (synced.theirs / "pyproject.toml").read_text() == "mine\n"


def test_a_file_that_a_run_deleted_is_sent_when_its_mode_changes(world: World, synced: Synced) -> None:
    world.run(synced.session, "rm pyproject.toml")
    (synced.mine / "pyproject.toml").chmod(0o700)
    assert synced.same().files == 1


def test_a_folder_with_a_runs_files_is_not_overwritten(world: World, synced: Synced) -> None:
    (synced.mine / "a").mkdir()
    synced.send()
    world.run(synced.session, "echo precious > a/result")
    (synced.mine / "a").rmdir()
    (synced.mine / "a").write_text("a file now\n")
    with pytest.raises(CheckoutError, match="holds files of a run") as error:
        synced.send()
    assert len(str(error.value).splitlines()) == 1
    assert (synced.theirs / "a" / "result").read_text() == "precious\n"
    (synced.theirs / "a" / "result").unlink()
    synced.same()


# --- files that move --------------------------------------------------------------------------------------------------


class Meddling(CheckoutReader):
    """A reader during whose reading of one path the user does something."""

    def __init__(self, checkout: Checkout, path: str, meddle: Callable[[], object]) -> None:
        super().__init__(checkout)
        self._path, self._meddle = path, meddle

    def read(self, path: str) -> Iterator[bytes | Entry]:
        if path == self._path:
            self._path = ""
            self._meddle()
        return super().read(path)


@pytest.mark.parametrize("after", [None, _folder, _empty], ids=["nothing", "folder", "empty"])
def test_a_file_that_vanishes_between_scan_and_send(
    synced: Synced, checkout: Checkout, after: Callable[[Path], None] | None
) -> None:
    path = synced.mine / "pyproject.toml"
    path.write_text("changed\n")
    (synced.mine / "other").write_text("other\n")

    def vanish() -> None:
        path.unlink()
        if after:
            after(path)

    synced.sync.reader = Meddling(checkout, "pyproject.toml", vanish)
    sent = synced.send()
    assert (sent.files, sent.removed) == (1, 1)
    assert not (synced.theirs / "pyproject.toml").exists()
    synced.same()


def test_a_new_file_that_vanishes(synced: Synced, checkout: Checkout) -> None:
    path = synced.mine / "brief"
    path.touch()
    synced.sync.reader = Meddling(checkout, "brief", path.unlink)
    assert synced.send() == Sent()
    assert synced.same() == Sent()


@contextlib.contextmanager
def writing(step: Callable[[int], object]) -> Iterator[None]:
    """A thread that calls ``step`` again and again."""
    done = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            step(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def sent_or_refused(synced: Synced, times: int) -> Iterator[bytes]:
    """What arrived of the file ``log`` each time it was sent; one that never holds still is refused."""
    for _ in range(times):
        try:
            synced.send()
        except CheckoutError as error:
            assert "changes all the time" in str(error)  # noqa: PT017  # it may or may not
        else:
            yield (synced.theirs / "log").read_bytes()


def test_a_file_that_is_replaced_meanwhile_is_sent_as_it_was_at_one_moment(synced: Synced) -> None:
    path = synced.mine / "log"
    versions = [bytes([n]) * (2 * protocol.CHUNK_BYTES) for n in range(8)]
    path.write_bytes(versions[0])

    def replace(number: int) -> None:
        temporary = path.with_name(".log.new.pyc")  # not of the checkout
        temporary.write_bytes(versions[number % 8])
        temporary.replace(path)

    with writing(replace):
        assert all(data in versions for data in sent_or_refused(synced, 5))
    synced.same()


def test_a_file_that_grows_meanwhile_is_sent_as_it_was_at_one_moment(synced: Synced) -> None:
    path = synced.mine / "log"
    path.touch()
    with path.open("ab", buffering=0) as file, writing(lambda number: file.write(b"%09d\n" % number)):
        for data in sent_or_refused(synced, 3):
            assert data == b"".join(b"%09d\n" % number for number in range(len(data) // 10))
    synced.same()


# --- others -----------------------------------------------------------------------------------------------------------


def test_two_notebooks_take_turns(synced: Synced, checkout: Checkout) -> None:
    other = CheckoutSync(CheckoutReader(checkout))
    other.send(synced.session.channel)
    (synced.mine / "one").write_text("1")
    synced.send()
    (synced.mine / "two").write_text("2")
    assert other.send(synced.session.channel).files == 1
    assert synced.same() == Sent()


def test_two_clients_at_once_end_with_the_same(synced: Synced, checkout: Checkout) -> None:
    second = Session("x", synced.session.spec, synced.session.sandbox, CheckoutSync(CheckoutReader(checkout)))
    second.open()
    meddled: list[Sent] = []

    def send_first() -> None:
        assert second.sync is not None
        meddled.append(second.sync.send(second.channel))

    (synced.mine / "pyproject.toml").write_text("changed\n")
    synced.sync.reader = Meddling(checkout, "pyproject.toml", send_first)
    sent = synced.same()  # its change is stale, and there is none left when it looks again
    assert meddled[0].files == 1
    assert sent == Sent()
    second.channel.close()


def test_a_stale_change_for_ever_is_given_up(synced: Synced, checkout: Checkout) -> None:
    other = synced.session.channel
    generation = 0

    class Racing(CheckoutReader):
        """Before each file is read, another notebook was faster."""

        def read(self, path: str) -> Iterator[bytes | Entry]:
            nonlocal generation
            generation = other.request(lambda n: protocol.GetCheckout(n, -1), protocol.CheckoutState).generation
            change = protocol.pack_json({"set": {"f": ["l", str(generation)]}})
            other.request(lambda n: protocol.ApplyCheckout(n, generation, change), protocol.CheckoutState)
            return super().read(path)

    (synced.mine / "new").touch()
    synced.sync.reader = Racing(checkout)
    with pytest.raises(CheckoutError, match="another notebook keeps changing"):
        synced.send()


def test_a_connection_that_breaks_in_the_middle(synced: Synced, checkout: Checkout) -> None:
    (synced.mine / "a").write_text("a")
    (synced.mine / "b").write_text("b")
    attach = sandbox_of(synced.session).streams[-1].process
    synced.sync.reader = Meddling(checkout, "b", attach.kill)
    channel = synced.session.channel
    channel.patiently(synced.send)
    assert tree(synced.theirs) == tree(synced.mine)
    assert not [path for path in synced.theirs.iterdir() if path.name.startswith(".skyrl_magic")]


def test_what_cannot_be_read_is_named(synced: Synced) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (synced.mine / "secret").touch(mode=0)
    assert synced.send().unreadable == ["secret"]


def test_a_large_change_is_told_before_it_is_sent(synced: Synced) -> None:
    told: list[tuple[int, int]] = []
    (synced.mine / "small").write_bytes(b"x")
    synced.sync.send(synced.session.channel, lambda *what: told.append(what))
    assert told == []
    with (synced.mine / "large").open("wb") as file:
        file.truncate(LARGE_BYTES)
    (synced.mine / "small").write_bytes(b"xy")
    synced.sync.send(synced.session.channel, lambda *what: told.append(what))
    assert told == [(2, LARGE_BYTES + 2)]


def test_many_files_are_told_and_sent_together(synced: Synced) -> None:
    told: list[tuple[int, int]] = []
    (synced.mine / "many").mkdir()
    for number in range(MANY_FILES + 1):
        (synced.mine / "many" / str(number)).write_bytes(b"%d" % number)
    sent = synced.sync.send(synced.session.channel, lambda *what: told.append(what))
    assert [files for files, _ in told] == [sent.files] == [MANY_FILES + 1]
    assert (synced.theirs / "many" / str(MANY_FILES)).read_bytes() == b"%d" % MANY_FILES
    assert len(list((synced.theirs / "many").iterdir())) == MANY_FILES + 1


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_files_that_look_like_secrets_are_named_once_before_they_leave_the_machine(
    world: World, checkout: Checkout
) -> None:
    for name in (".env", "a.pem", "id_rsa", "token.txt"):
        (checkout.root / name).write_text("x\n")
    told: list[str] = []
    progress = Recorder()
    world.backend.before = lambda _: told.extend(progress.notes)
    world.start()  # its volume is made
    session, _ = world.service.ensure(world.request(checkout, backend="modal"), progress)
    line = ".env, a.pem, id_rsa and 1 more look like secrets and go into the container: .skyrlignore leaves files out"
    assert progress.notes == [line]
    assert told[0] == line, "it was said before anything was uploaded"
    (checkout.root / ".env").write_text("changed\n")
    (checkout.root / "new.key").write_text("k\n")
    _, sink = world.run(session, "true")
    assert sink.notes == ["new.key looks like a secret and goes into the container: .skyrlignore leaves files out"]
    (checkout.root / "new.key").write_text("k2\n")
    assert world.run(session, "true")[1].notes == []


def test_files_that_stay_on_this_machine_or_are_left_out_are_not_named(world: World, checkout: Checkout) -> None:
    (checkout.root / ".env").write_text("x\n")
    progress = Recorder()
    world.start()
    session, _ = world.service.ensure(world.request(checkout), progress)
    (checkout.root / "new.pem").write_text("k\n")
    assert [*progress.notes, *world.run(session, "true")[1].notes] == []
    (checkout.root / ".skyrlignore").write_text(".env\n*.pem\n")
    world.service.ensure(world.request(checkout, backend="modal"), progress)
    assert progress.notes == []

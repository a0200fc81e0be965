"""A project file and a checkout that somebody else has put there: neither money, nor secrets, nor folders by them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from skyrl_magic.core import spec
from skyrl_magic.core.errors import CheckoutError, OptionError
from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given, parse_line
from skyrl_magic.service.checkout import find_checkout
from skyrl_magic.service.settings import Resolved, project_file, resolve
from skyrl_magic.ui.cells import Cells
from skyrl_magic.ui.notebook import Services
from skyrl_magic.ui.trust import answer

TABLE = "[tool.skyrl-magic]\n"
GREEDY = 'gpu = "H100:8"\nsecret = "prod"\nimage = "evil/image"\ntimeout = "24h"\n'
OTHER = 54_321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another user")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, with the configuration in it."""
    for name in ("MODAL_GPU", "MODAL_APP_NAME", "SKYRL_MAGIC_BACKEND", "SKYRL_MAGIC_TRUST", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout that was just cloned, with a project file that wants much."""
    folder = tmp_path / "clone"
    (folder / "skyrl-gym").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(TABLE + GREEDY)
    return folder


def resolved(folder: Path, line: str = "", config: Given | None = None) -> Resolved:
    return resolve(parse_line(line).given, config or Given(), folder, lambda: "local")


# --- what a project file may set --------------------------------------------------------------------------------------


def test_nothing_that_matters_counts_before_it_is_accepted(clone: Path) -> None:
    found = resolved(clone)
    assert found.spec.gpu == Gpu("L4", 1)
    assert (found.spec.secrets, found.timeout_s) == ((), spec.DEFAULT_TIMEOUT_S)
    assert found.spec.image != "evil/image"
    assert found.refusal == (
        f"{clone}/pyproject.toml would set --gpu H100:8 --image evil/image --secret prod --timeout 24h, and nobody has "
        "accepted that: %skyrl_trust -y accepts it, %skyrl_trust --no leaves it out, and --trust or "
        "SKYRL_MAGIC_TRUST=1 counts where nobody is asked"
    )


@pytest.mark.parametrize(
    "text",
    [
        'gpu = "T4"', "cpu = 64", 'memory = "64GiB"', 'image = "a/b"', 'volume = "theirs"', 'repo = "/etc"',
        'app = "x"', 'secret = "prod"', 'backend = "modal"', 'session = "prod"', 'timeout = "61m"',
        'idle-timeout = "11m"', "usd-per-hour = 0.01", "keep-runs-days = 0.01", "keep-runs-gb = 0.001",
    ],
)  # fmt: skip
def test_each_setting_that_needs_trust(clone: Path, text: str) -> None:
    (clone / "pyproject.toml").write_text(TABLE)
    before = resolved(clone)
    (clone / "pyproject.toml").write_text(TABLE + text)
    found = resolved(clone)
    key = text.partition(" = ")[0]
    assert f"would set --{key} " in found.refusal
    assert (found.spec, found.timeout_s, found.idle_timeout_s, found.keep) == (
        before.spec, before.timeout_s, before.idle_timeout_s, before.keep,
    )  # fmt: skip
    assert found.usd_per_hour is None


@pytest.mark.parametrize(
    "text",
    ['gpu = "none"', 'repo = "none"', "max-usd = 1", 'timeout = "10m"', 'idle-timeout = "1m"', 'hard-timeout = "2h"',
     "ray = false", 'wait = "1m"', "keep-results = false"],
)  # fmt: skip
def test_smaller_limits_need_no_trust(clone: Path, text: str) -> None:
    (clone / "pyproject.toml").write_text(TABLE + text)
    found = resolved(clone)
    assert found.refusal == ""
    assert found.said != Given()


def test_what_the_line_or_config_says_is_not_asked(clone: Path) -> None:
    (clone / "pyproject.toml").write_text(TABLE + 'gpu = "H100:8"\ntimeout = "2h"')
    config = Given(gpu=NO_GPU)
    assert "--gpu" not in resolved(clone, "", config).refusal
    found = resolved(clone, "--timeout 4h", config)
    assert (found.refusal, found.spec.gpu, found.timeout_s) == ("", NO_GPU, 7200)  # the file makes it shorter


def test_a_cell_ends_before_anything_is_asked_for(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = Cells(Services(None, None, lambda: "local"), spec.RunRules)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="nobody has accepted that"):
        cells.start(Given(), Given(), clone)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("how", ["flag", "everywhere", "folder", "above"])
def test_where_nobody_is_asked(clone: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"everywhere": "1", "folder": str(clone), "above": f"/nowhere{os.pathsep}{clone.parent}", "flag": "0"}
    monkeypatch.setenv("SKYRL_MAGIC_TRUST", said[how])
    found = resolved(clone, "--trust" if how == "flag" else "")
    assert (str(found.spec.gpu), found.spec.secrets, found.timeout_s, found.refusal) == (
        "H100:8", ("prod",), 86400, "",
    )  # fmt: skip


def test_a_folder_beside_the_trusted_one(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRL_MAGIC_TRUST", f"{str(clone)[:-1]}{os.pathsep}.")
    monkeypatch.chdir(clone)
    assert resolved(clone).refusal


def test_a_project_file_cannot_trust_itself(clone: Path) -> None:
    (clone / "pyproject.toml").write_text(TABLE + "trust = true\n" + GREEDY)
    with pytest.raises(OptionError, match="unknown option --trust"):
        resolved(clone)


def test_a_text_that_a_terminal_would_obey(clone: Path) -> None:
    (clone / "pyproject.toml").write_text(TABLE + 'repo = "x\\u001b[2J\\n\\u202e"')
    assert resolved(clone).refusal.isprintable()
    assert answer("", clone).isprintable()


# --- the user's answer ----------------------------------------------------------------------------------------------


def test_it_is_accepted_once_and_asked_again_when_it_changes(clone: Path) -> None:
    assert answer("", clone).endswith("it counts once you accept it: %skyrl_trust -y (--no leaves it out)")
    assert resolved(clone).refusal  # to look at it is no answer
    assert answer("-y", clone).endswith("--timeout 24h: you accepted that")
    assert str(resolved(clone / "skyrl-gym").spec.gpu) == "H100:8"
    (clone / "pyproject.toml").write_text(TABLE + GREEDY + "max-usd = 5\n")
    assert resolved(clone).refusal == ""  # a limit
    (clone / "pyproject.toml").write_text(TABLE + GREEDY.replace("prod", "other"))
    assert "--secret other" in resolved(clone).refusal


def test_another_folder_with_the_same_settings_is_asked_for_itself(clone: Path, tmp_path: Path) -> None:
    answer("-y", clone)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "pyproject.toml").write_text(TABLE + GREEDY)
    assert resolved(tmp_path / "second").refusal
    assert resolved(clone).refusal == ""


def test_no_is_an_answer_too(clone: Path) -> None:
    assert answer("--no", clone).endswith("you said that it does not count")
    found = resolved(clone)
    assert (found.refusal, str(found.spec.gpu), found.spec.secrets) == ("", "L4", ())


def test_the_answers_are_kept_for_their_owner_alone(clone: Path) -> None:
    answer("-y", clone)
    kept = platformdirs.user_config_path("skyrl_magic") / "trusted.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [*json.loads(kept.read_text())] == [str(clone)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("["),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_text('{"a": 1}'),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.symlink_to("/dev/zero"),
        os.mkfifo,
    ],
)
def test_answers_that_are_none(clone: Path, damage: Callable[[Path], object]) -> None:
    answer("-y", clone)
    kept = platformdirs.user_config_path("skyrl_magic") / "trusted.json"
    kept.unlink()
    damage(kept)
    assert resolved(clone).refusal
    answer("-y", clone)
    assert resolved(clone).refusal == ""


@pytest.mark.parametrize("line", ["yes", "-y --no", "--maybe"])
def test_a_wrong_line(clone: Path, line: str) -> None:
    with pytest.raises(OptionError, match="%skyrl_trust takes -y"):
        answer(line, clone)


def test_nothing_to_accept(tmp_path: Path) -> None:
    assert answer("-y", tmp_path) == "no project file from this folder upwards would set what needs your word"
    assert answer("-h", tmp_path).startswith("usage: %skyrl_trust [-y|--no]")


# --- project files that are none ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, ""),
        (lambda path: path.symlink_to("/dev/zero"), ""),
        (lambda path: path.symlink_to(path), ""),
        (lambda path: path.mkdir(), ""),
        (lambda path: path.write_text("#" * (2 << 20)), "it has more than 1,048,576 bytes"),
        (lambda path: path.write_text("a = " + "[" * 50_000), "nested too deeply"),
    ],
)
@pytest.mark.timeout(30)
def test_a_project_file_that_is_none(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path / "pyproject.toml")
    if not says:
        assert project_file(tmp_path).settings == Given()
        return
    with pytest.raises(OptionError, match=says):
        project_file(tmp_path)


def test_a_project_file_that_is_a_link_to_one(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "pyproject.toml").symlink_to(clone / "pyproject.toml")
    assert str(project_file(tmp_path / "linked").settings.gpu) == "H100:8"


# --- another owner --------------------------------------------------------------------------------------------------


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """A notebook's own folder, two levels below one of another user that wants to be its checkout."""
    theirs = tmp_path / "theirs"
    mine = theirs / "project" / "notebooks"
    mine.mkdir(parents=True)
    (theirs / "skyrl-gym").mkdir()
    (theirs / ".ssh").mkdir()
    (theirs / "pyproject.toml").write_text(TABLE + GREEDY)
    for path in (theirs, theirs / "skyrl-gym", theirs / "pyproject.toml"):
        os.chown(path, OTHER, OTHER)
    return mine


@as_root
def test_nothing_of_another_owner_is_used_where_it_was_merely_found(below: Path) -> None:
    theirs = below.parents[1]
    found = resolved(below)
    assert (found.checkout, found.refusal, str(found.spec.gpu)) == (None, "", "L4")
    why = f"it is another user's (--repo {theirs} takes it all the same)"
    assert found.notes[:2] == (
        f"{theirs}/pyproject.toml is another user's and was passed over",
        f"{theirs} has a folder skyrl-gym and was passed over: {why}",
    )


@as_root
def test_a_checkout_of_another_owner_that_is_named_is_used(below: Path) -> None:
    theirs = below.parents[1]
    assert resolved(below, f"--repo {theirs}").spec.repo == str(theirs)
    assert resolved(below, f"--repo {theirs / 'skyrl-gym'}").spec.repo == str(theirs)
    with pytest.raises(CheckoutError, match="it is another user's"):
        resolved(below, "--repo .")  # an own folder below it names it no more than nothing does


@as_root
@pytest.mark.parametrize("theirs", ["mark", "root", "link"])
def test_one_part_of_another_owner_is_enough(clone: Path, theirs: str, tmp_path: Path) -> None:
    if theirs == "link":  # an own folder, in which somebody's link is the mark
        (clone / "skyrl-gym").rmdir()
        (tmp_path / "elsewhere").mkdir()
        (clone / "skyrl-gym").symlink_to(tmp_path / "elsewhere")
        os.chown(clone / "skyrl-gym", OTHER, OTHER, follow_symlinks=False)
    else:
        os.chown(clone / "skyrl-gym" if theirs == "mark" else clone, OTHER, OTHER)
    assert find_checkout(clone) is None


def test_a_folder_where_everybody_can_write_is_no_checkout(clone: Path) -> None:
    clone.chmod(0o1777)
    notes: list[str] = []
    assert find_checkout(clone, notes) is None
    assert notes[0].endswith("was passed over: everybody can write there")


def test_the_home_folder_is_no_checkout(home: Path) -> None:
    (home / "skyrl-gym").mkdir()
    (home / "work").mkdir()
    assert resolved(home / "work").checkout is None
    assert any("it is the home folder" in note for note in resolved(home).notes)
    with pytest.raises(CheckoutError, match="it is the home folder"):
        resolved(home / "work", "--repo ~")


def test_the_home_folder_by_another_name_is_none_either(home: Path, tmp_path: Path) -> None:
    (home / "skyrl-gym").mkdir()
    (tmp_path / "link").symlink_to(home)
    assert find_checkout(tmp_path / "link") is None

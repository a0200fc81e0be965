from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from skyrl_magic.core import contract, spec
from skyrl_magic.core.errors import CheckoutError, OptionError
from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given
from skyrl_magic.service.session_request import check_timeouts, request_of
from skyrl_magic.service.settings import Resolved, environment_settings, project_file, resolve

PYPROJECT = "[tool.skyrl-magic]\n"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODAL_GPU", "MODAL_APP_NAME", "SKYRL_MAGIC_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKYRL_MAGIC_TRUST", "1")  # what a project file needs is in tests/hostile/test_trust.py


def resolved(folder: Path, line: Given | None = None, config: Given | None = None) -> Resolved:
    return resolve(line or Given(), config or Given(), folder, lambda: "local")


def settings_of(folder: Path) -> Given:
    return project_file(folder).settings


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def make_checkout(root: Path, *, old: bool) -> Path:
    (root / "skyrl-gym").mkdir(parents=True)
    (root / "skyrl-train").mkdir()
    if old:
        (root / "skyrl-train" / "pyproject.toml").touch()
    return root


# --- defaults and precedence ----------------------------------------------------------------------------------------


def test_defaults_are_the_source_documents(tmp_path: Path) -> None:
    result = resolved(tmp_path)
    assert result.spec == spec.SessionSpec(
        backend="local",
        gpu=Gpu("L4", 1),
        image=contract.IMAGE_OLD_LAYOUT,
        volume="skyrl-data",
        app="my_skyrl_app",
        ray=True,
    )
    assert (result.timeout_s, result.hard_timeout_s, result.idle_timeout_s) == (3600, 86400, 600)
    assert result.checkout is None


def test_flag_over_config_over_project_file_over_environment_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [str(resolved(tmp_path).spec.gpu)]
    monkeypatch.setenv("MODAL_GPU", "T4")
    seen.append(str(resolved(tmp_path).spec.gpu))
    write(tmp_path, PYPROJECT + "gpu = 'A10:2'")
    seen.append(str(resolved(tmp_path).spec.gpu))
    config = Given(gpu=Gpu("H100", 1))
    seen.append(str(resolved(tmp_path, config=config).spec.gpu))
    seen.append(str(resolved(tmp_path, Given(gpu=NO_GPU), config).spec.gpu))
    assert seen == ["L4", "T4", "A10:2", "H100", "none"]


def test_values_come_from_different_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_APP_NAME", "from-env")
    write(tmp_path, PYPROJECT + "volume = 'from-project'\nray = false\nsecret = ['b', 'a', 'b']")
    result = resolved(tmp_path, Given(cpu=2.0), Given(memory_mib=1024)).spec
    assert (result.app, result.volume, result.ray) == ("from-env", "from-project", False)
    assert (result.cpu, result.memory_mib, result.secrets) == (2.0, 1024, ("a", "b"))


def test_a_flag_starts_ray_where_the_project_file_does_not(tmp_path: Path) -> None:
    write(tmp_path, PYPROJECT + "ray = false")
    assert resolved(tmp_path, Given(ray=True)).spec.ray


@pytest.mark.parametrize("strictest", ["line", "config", "project"])
def test_limits_take_the_smallest_of_all_places(tmp_path: Path, strictest: str) -> None:
    limits = {"line": 7200, "config": 8000, "project": 9000} | {strictest: 1200}
    write(tmp_path, PYPROJECT + f"timeout = {limits['project']}\nidle-timeout = {limits['project']}")
    result = resolved(
        tmp_path,
        Given(timeout_s=limits["line"], idle_timeout_s=limits["line"]),
        Given(timeout_s=limits["config"], idle_timeout_s=limits["config"]),
    )
    assert (result.timeout_s, result.idle_timeout_s) == (1200, 1200)
    bounded = [note for note in result.notes if "is bounded to 20m" in note]
    assert [note.split()[0] for note in bounded] == ([] if strictest == "line" else ["--timeout", "--idle-timeout"])


def test_a_default_is_no_limit(tmp_path: Path) -> None:
    result = resolved(tmp_path, Given(timeout_s=20_000, idle_timeout_s=5000))
    assert (result.timeout_s, result.idle_timeout_s) == (20_000, 5000)
    assert not any("bounded" in note for note in result.notes)


def test_a_timeout_beyond_the_hard_limit_of_a_new_container_is_refused(tmp_path: Path) -> None:
    assert resolved(tmp_path, config=Given(hard_timeout_s=1800)).timeout_s == 1800
    assert resolved(tmp_path, Given(timeout_s=7200), Given(hard_timeout_s=7200)).hard_timeout_s == 7200
    says = "--timeout 4h: the container ends 2h after its start at the latest"
    write(tmp_path, PYPROJECT + "hard-timeout = '2h'")
    with pytest.raises(OptionError, match=says):
        check_timeouts(request_of(resolved(tmp_path, Given(timeout_s=14400))))


# --- the project file -----------------------------------------------------------------------------------------------


def test_the_nearest_file_with_the_table_counts(tmp_path: Path) -> None:
    write(tmp_path, PYPROJECT + "gpu = 'T4'")
    inner = write(tmp_path / "a", PYPROJECT + "gpu = 'A100'")
    deepest = write(inner / "b" / "c", "[project]\nname = 'other'\n[tool.ruff]\nline-length = 88")
    assert settings_of(deepest).gpu == Gpu("A100", 1)
    assert settings_of(tmp_path).gpu == Gpu("T4", 1)


def test_without_a_table_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path, "[project]\nname = 'x'")
    assert settings_of(tmp_path) == Given()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PYPROJECT + "gpus = 'L4'", "[tool.skyrl-magic]: unknown option --gpus; did you mean --gpu?"),
        (PYPROJECT + "gpu = 'L5'", "[tool.skyrl-magic]: --gpu L5: there is no GPU"),
        (PYPROJECT + "gpu = ", "pyproject.toml: Invalid value"),
        ("[tool]\nskyrl-magic = 'L4'", "[tool.skyrl-magic]: it is a table"),
        ("[[tool.skyrl-magic]]\ngpu = 'L4'", "[tool.skyrl-magic]: it is a table"),
        (PYPROJECT + "repo = '~no-such-user-here/SkyRL'", "--repo ~no-such-user-here/SkyRL: "),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(OptionError) as caught:
        settings_of(tmp_path / "below")
    assert str(caught.value).startswith(str(tmp_path / "pyproject.toml")) or message.startswith("--repo")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match=r"pyproject\.toml: "):
        settings_of(tmp_path)


@pytest.mark.parametrize("text", ["tool = 3", "tool = []", "", "[tool]"])
def test_files_of_others_say_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert settings_of(tmp_path) == Given()


# --- the environment ------------------------------------------------------------------------------------------------


def test_upstreams_variables_keep_their_meaning() -> None:
    found = environment_settings({"MODAL_GPU": "L4:1", "MODAL_APP_NAME": "app", "SKYRL_MAGIC_BACKEND": "modal"})
    assert found == Given(gpu=Gpu("L4", 1), app="app", backend="modal")


def test_an_empty_variable_says_nothing() -> None:
    assert environment_settings({"MODAL_GPU": "", "MODAL_APP_NAME": "", "OTHER": "x"}) == Given()


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(OptionError, match=r"^\$MODAL_GPU: --gpu L5: there is no GPU"):
        environment_settings({"MODAL_GPU": "L5"})


# --- backend, checkout, image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, "chosen"), ("auto", "chosen"), ("modal", "modal"), ("local", "local")]
)
def test_backend(tmp_path: Path, asked: str | None, expected: str) -> None:
    assert resolve(Given(backend=asked), Given(), tmp_path, lambda: "chosen").spec.backend == expected


def test_the_checkout_and_its_image_are_found_from_a_folder_in_it(tmp_path: Path) -> None:
    for old, image in ((True, contract.IMAGE_OLD_LAYOUT), (False, contract.IMAGE_NEW_LAYOUT)):
        root = make_checkout(tmp_path / str(old), old=old)
        result = resolved(root / "skyrl-train")
        assert result.spec.repo == str(root)
        assert result.spec.image == image
        assert result.checkout is not None
        assert result.checkout.root == root
        assert result.notes == ()


def test_an_image_that_is_given_counts(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "SkyRL", old=False)
    assert resolved(root, Given(image="mine")).spec.image == "mine"


def test_no_checkout_is_said_in_one_line_and_none_is_silent(tmp_path: Path) -> None:
    (note,) = resolved(tmp_path).notes
    assert note.startswith("no SkyRL checkout from this folder upwards")
    silent = resolved(make_checkout(tmp_path / "SkyRL", old=True), Given(repo="none"))
    assert silent.checkout is None
    assert silent.spec.repo == ""
    assert silent.notes == ()


def test_repo_is_relative_to_the_notebooks_folder(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "SkyRL", old=True)
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    assert resolved(notebooks, Given(repo="../SkyRL")).spec.repo == str(root)
    assert resolved(notebooks, Given(repo=str(root))).spec.repo == str(root)
    assert resolved(notebooks, Given(repo="../SkyRL/skyrl-gym")).spec.repo == str(root)


def test_repo_in_a_project_file_is_relative_to_that_file(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "SkyRL", old=True)
    project = write(tmp_path / "project", PYPROJECT + "repo = '../SkyRL'")
    notebooks = project / "deep" / "notebooks"
    notebooks.mkdir(parents=True)
    assert resolved(notebooks).spec.repo == str(root)
    write(project, PYPROJECT + "repo = 'none'")
    assert resolved(notebooks).spec.repo == ""


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_checkout(tmp_path / "home" / "SkyRL", old=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolved(tmp_path, Given(repo="~/SkyRL")).spec.repo == str(root)


def test_the_same_checkout_through_a_link_is_the_same_session(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "SkyRL", old=True)
    (tmp_path / "link").symlink_to(root)
    assert resolved(tmp_path, Given(repo="link")).spec == resolved(tmp_path, Given(repo="SkyRL")).spec


@pytest.mark.parametrize("repo", ["missing", "file", "~no-such-user-here/x", "."])
def test_a_repo_that_is_none_is_an_error(tmp_path: Path, repo: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((CheckoutError, OptionError), match=r"^--repo "):
        resolved(tmp_path, Given(repo=repo))


def test_nothing_is_written(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "SkyRL", old=True)
    before = {(path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}
    assert dataclasses.asdict(resolved(root).spec)
    assert {(path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")} == before

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from skyrl_magic.core.errors import OptionError, SessionError
from skyrl_magic.core.gpus import MAX_COUNTS, NO_GPU, Gpu
from skyrl_magic.core.options import Given, parse_line
from skyrl_magic.ui.picker import Picker

DEFAULTS = Given(gpu=Gpu("L4", 1), volume="skyrl-data", timeout_s=3600, idle_timeout_s=600, ray=True)


class Notebook:
    """What the picker calls, with what it was called with."""

    def __init__(self, given: Given | None = None) -> None:
        self.given = given or Given()
        self.used: list[Given] = []
        self.started: list[str] = []
        self.error: BaseException | None = None
        self.enabled_while_starting: list[bool] = []
        self.picker: Picker | None = None

    def current_given(self) -> Given:
        return self.given

    def use_defaults(self, given: Given) -> None:
        self.given = given
        self.used.append(given)

    def start_from_picker(self, line: str) -> str:
        self.started.append(line)
        if self.picker is not None:
            self.enabled_while_starting += [not self.picker.use.disabled, not self.picker.start.disabled]
        if self.error is not None:
            raise self.error
        return "started"


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODAL_GPU", "MODAL_APP_NAME", "SKYRL_MAGIC_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def shown(widget_html: str) -> str:
    """The text of an HTML widget."""
    return html.unescape(re.sub(r"<[^>]*>", "", widget_html))


def test_it_begins_with_the_defaults() -> None:
    picker = Picker(Notebook())
    assert picker.given() == DEFAULTS
    assert shown(picker.line.value) == "%%skyrl_modal --gpu L4"


def test_it_begins_with_the_notebooks_settings() -> None:
    settings = Given(
        gpu=Gpu("A100", 4), volume="mine", timeout_s=5000, idle_timeout_s=90, ray=False, session="big", cpu=2.0
    )
    picker = Picker(Notebook(settings))
    assert picker.given() == replace(settings, cpu=None)
    assert shown(picker.line.value) == (
        "%%skyrl_modal --gpu A100:4 --volume mine --no-ray --session big --timeout 1h23m20s --idle-timeout 1m30s"
    )


def test_it_begins_with_the_project_files_and_the_environments_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.skyrl-magic]\nvolume = 'project'\ntimeout = '2h'")
    monkeypatch.setenv("MODAL_GPU", "H100:2")
    monkeypatch.setenv("SKYRL_MAGIC_TRUST", "1")
    picker = Picker(Notebook(Given(timeout_s=7 * 3600)))
    assert picker.given() == replace(DEFAULTS, gpu=Gpu("H100", 2), volume="project", timeout_s=7200)


def test_no_gpu() -> None:
    picker = Picker(Notebook(Given(gpu=NO_GPU)))
    assert picker.count.disabled
    assert picker.given().gpu == NO_GPU
    picker.gpu.value = "T4"
    assert not picker.count.disabled
    assert picker.given().gpu == Gpu("T4", 1)
    picker.gpu.value = "none"
    assert picker.count.disabled
    assert shown(picker.line.value) == "%%skyrl_modal --gpu none"


@pytest.mark.parametrize("gpu_type", MAX_COUNTS)
def test_the_count_is_bounded_by_the_type(gpu_type: str) -> None:
    picker = Picker(Notebook())
    picker.gpu.value = "H100"
    picker.count.value = 8
    picker.gpu.value = gpu_type
    picker.count.value = 99
    assert picker.given().gpu == Gpu(gpu_type, MAX_COUNTS[gpu_type])
    picker.count.value = 0
    assert picker.given().gpu == Gpu(gpu_type, 1)


def test_the_line_says_the_same_as_the_widgets() -> None:
    picker = Picker(Notebook())
    picker.gpu.value, picker.count.value = "A100-80GB", 2
    picker.timeout.value, picker.idle_timeout.value = 4 * 3600, 1200
    picker.volume.value, picker.session.value, picker.ray.value = "v2", "my-session", False
    line = shown(picker.line.value).removeprefix("%%skyrl_modal ")
    assert parse_line(line).given == picker.given()
    assert parse_line(line).given == Given(
        gpu=Gpu("A100-80GB", 2), timeout_s=14400, idle_timeout_s=1200, volume="v2", session="my-session", ray=False
    )


def test_the_line_says_a_default_where_the_settings_say_otherwise() -> None:
    picker = Picker(Notebook(Given(ray=False, timeout_s=7200, volume="other")))
    picker.ray.value, picker.timeout.value, picker.volume.value = True, 3600, "skyrl-data"
    assert shown(picker.line.value) == "%%skyrl_modal --gpu L4 --volume skyrl-data --ray --timeout 1h"


def test_use_sets_the_defaults() -> None:
    notebook = Notebook()
    picker = Picker(notebook)
    picker.gpu.value, picker.count.value = "A100", 2
    picker.use.click()
    assert notebook.used == [replace(DEFAULTS, gpu=Gpu("A100", 2))]
    assert "defaults" in shown(picker.report.value)
    assert notebook.started == []


def test_start_starts_what_the_line_says_with_the_buttons_off() -> None:
    notebook = Notebook()
    notebook.picker = picker = Picker(notebook)
    picker.gpu.value = "none"
    picker.ray.value = False
    picker.start.click()
    assert notebook.started == ["--gpu none --no-ray"]
    assert notebook.enabled_while_starting == [False, False]
    assert not picker.use.disabled
    assert not picker.start.disabled
    assert notebook.used == []


@pytest.mark.parametrize(
    ("error", "text"),
    [(SessionError("no <b>room</b>: try later"), "no <b>room</b>: try later"), (KeyboardInterrupt(), "interrupted")],
)
def test_a_failed_start_is_one_line_and_can_be_tried_again(error: BaseException, text: str) -> None:
    notebook = Notebook()
    notebook.error = error
    picker = Picker(notebook)
    picker.start.click()
    assert shown(picker.report.value) == text
    assert "<b>" not in picker.report.value
    assert not picker.start.disabled
    notebook.error = None
    picker.start.click()
    assert len(notebook.started) == 2


@pytest.mark.parametrize("name", ["", "a b", "-x", "<script>alert(1)</script>", "x" * 65])
def test_a_wrong_volume_is_one_line_and_turns_the_buttons_off(name: str) -> None:
    picker = Picker(Notebook())
    picker.volume.value = name
    written = name.strip() or "''"
    assert shown(picker.line.value).startswith(f"--volume {written}: a name is")
    assert "<script" not in picker.line.value
    assert picker.use.disabled
    assert picker.start.disabled
    picker.volume.value = "good"
    assert shown(picker.line.value) == "%%skyrl_modal --gpu L4 --volume good"
    assert not picker.use.disabled
    assert not picker.start.disabled


def test_a_wrong_session_is_one_line() -> None:
    picker = Picker(Notebook())
    picker.session.value = "a/b"
    assert shown(picker.line.value).startswith("--session a/b: a name is")
    picker.session.value = "  "
    assert picker.given().session is None


def test_every_control_says_what_it_is() -> None:
    picker = Picker(Notebook())
    controls = (
        picker.gpu, picker.count, picker.timeout, picker.idle_timeout, picker.volume, picker.session, picker.ray,
        picker.use, picker.start,
    )  # fmt: skip
    assert all(control.description for control in controls)


def test_no_colour_but_the_themes() -> None:
    picker = Picker(Notebook())
    good = picker.line.value
    picker.volume.value = "a b"
    for text in (good, picker.line.value, picker.report.value):
        for colour in re.findall(r"(?:color|background)\s*:\s*([^;\"]+)", text):
            assert colour.startswith("var(--jp-")


def test_a_wrong_project_file_is_told_before_anything_is_shown(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.skyrl-magic]\ngpu = 'L5'")
    with pytest.raises(OptionError, match=r"pyproject\.toml"):
        Picker(Notebook())

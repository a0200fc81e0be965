"""Which session a cell goes to, without containers: the rule of ``docs/sessions.md``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.contradictions import all_of, contradictions
from skyrl_magic.service.session_choice import Choice, Used, choose, named
from skyrl_magic.service.session_request import SessionRequest

L4, A100 = Gpu("L4", 1), Gpu("A100", 1)
SPEC = SessionSpec("modal", L4, "image", "data", "app", ray=True)
NOTHING = Given()


def asked(name: str | None = None, **spec: Any) -> SessionRequest:
    return SessionRequest(replace(SPEC, **spec), None, 600, name)


class Book:
    """A notebook that remembers: a cell's line and what the settings make of it say where it goes."""

    def __init__(self, *, config: Given = NOTHING, begins_in: str | None = None) -> None:
        self.config, self.begins_in = config, begins_in
        self.used: list[SessionRequest] = []
        self.ended: set[str] = set()
        self._config = NOTHING

    def choose(self, line: Given = NOTHING) -> Choice:
        spec = {
            name: value
            for layer in (self.config, line)
            for name in ("gpu", "volume", "ray", "secrets", "cpu")
            if (value := getattr(layer, name)) is not None
        }
        running = frozenset(request.place for request in self.used if request.name not in self.ended)
        used = Used(tuple(self.used), running, self._config)
        return choose(asked(**spec), line, self.config, self.config.session or self.begins_in, used)

    def go(self, line: Given = NOTHING) -> tuple[str, str]:
        """Go there; the session's name, one of its GPU where it has none, and why."""
        choice = self.choose(line)
        request = replace(choice.request, name=choice.request.name or f"any-{choice.request.spec.gpu}")
        self.used = [request, *(other for other in self.used if other.name != request.name)]
        self.ended.discard(request.name or "")
        self._config = self.config
        return request.name or "", choice.why


def test_a_notebook_begins_where_its_settings_say_and_stays_where_it_was_named() -> None:
    book = Book(begins_in="train")
    assert book.go() == ("train", "")
    assert book.go() == ("train", "")
    assert book.go(Given(session="scratch")) == ("scratch", "")
    assert book.go() == ("scratch", "")
    book.begins_in = "other"  # the project file has changed: the notebook has begun
    assert book.go() == ("scratch", "")


def test_what_a_cell_does_not_name_does_not_count() -> None:
    book = Book()
    book.go(Given(gpu=A100, volume="mine"))
    assert book.go(Given(gpu=A100)) == ("any-A100", "")
    assert book.go(Given(volume="mine")) == ("any-A100", "")
    assert book.go(Given(idle_timeout_s=5, env=(("A", "b"),))) == ("any-A100", "")


def test_a_contradiction_goes_elsewhere_and_says_which_option_it_is() -> None:
    book = Book()
    book.go()
    assert book.go(Given(gpu=A100)) == ("any-A100", "--gpu A100 is not session any-L4's L4")
    book.ended.add("any-L4")
    says = "--gpu L4 is not session any-A100's A100, --no-ray is not its --ray, --volume v is not its data"
    assert book.go(Given(gpu=L4, ray=False, volume="v"))[1] == says


def test_another_session_of_the_notebook_that_runs_and_satisfies_is_found_the_newest_first() -> None:
    book = Book()
    for name, gpu in (("one", A100), ("two", A100), ("small", L4)):
        book.go(Given(session=name, gpu=gpu))
    assert book.go(Given(gpu=A100)) == ("two", "--gpu A100 is not session small's L4")
    assert book.go(Given(gpu=L4))[0] == "small"
    book.ended |= {"one", "two"}
    assert book.go(Given(gpu=A100))[0] == "any-A100"


def test_the_current_session_stays_that_when_it_has_ended() -> None:
    book = Book()
    book.go(Given(session="one"))
    book.go(Given(session="two", gpu=A100))
    book.ended.add("two")
    assert book.choose().request == book.used[0]
    assert book.go() == ("two", "")


def test_a_named_session_must_have_what_the_line_names_and_is_else_as_it_was() -> None:
    book = Book(config=Given(gpu=NO_GPU))
    assert book.choose(Given(session="new")).request.asked == frozenset({"session"})
    assert book.choose(Given(session="new", gpu=A100)).request.asked == frozenset({"session", "gpu"})
    book.go(Given(session="big", gpu=A100))
    book.go(Given(session="small"))
    assert book.choose(Given(session="big")).request.spec.gpu == A100
    assert book.choose(Given(session="big", gpu=L4)).request.spec.gpu == L4
    assert book.choose(Given(session="big", gpu=L4)).otherwise is None


def test_a_beginning_that_contradicts_the_first_cell_has_another_way() -> None:
    book = Book(begins_in="train")
    choice = book.choose(Given(gpu=A100))
    assert (choice.request.name, choice.request.spec.gpu) == ("train", A100)
    assert choice.request.asked == frozenset({"gpu"})
    assert choice.otherwise == asked(gpu=A100)
    assert choice.otherwise.name is None


def test_a_change_of_config_counts_as_if_the_next_cell_named_it() -> None:
    book = Book(config=Given(gpu=L4))
    book.go()
    book.config = Given(gpu=A100)
    assert book.go() == ("any-A100", "%config SkyRLMagic.gpu = A100 is not session any-L4's L4")
    assert book.go(Given(gpu=L4))[0] == "any-L4"
    assert book.go() == ("any-L4", ""), "the setting has not changed since"
    book.config = Given(gpu=A100, session="named")
    assert book.go() == ("named", "")
    book.config = NOTHING
    assert book.go()[1] == "%config SkyRLMagic.gpu = L4 is not session named's A100", "taken back is changed too"


def test_a_limit_that_is_named_goes_along_and_contradicts_nothing() -> None:
    book = Book()
    book.go()
    line = Given(max_usd=5.0, usd_per_hour=2.0)
    fresh = replace(asked(), max_usd=5.0, usd_per_hour=2.0, idle_timeout_s=7)
    choice = choose(fresh, line, NOTHING, None, Used(book.used, frozenset(), NOTHING))
    request = choice.request
    assert (request.max_usd, request.usd_per_hour, request.idle_timeout_s, choice.why) == (5.0, 2.0, 600, "")


@pytest.mark.parametrize(
    ("there", "wanted", "says"),
    [
        ({"secrets": ("hf", "wandb")}, {"secrets": ("hf",)}, ""),
        ({"secrets": ("hf",)}, {"secrets": ("hf", "wandb")}, "--secret hf,wandb is not session s's hf"),
        ({}, {"secrets": ("hf",)}, "--secret hf is not session s's none"),
        ({"ray": False}, {}, "--ray is not session s's --no-ray"),
        ({}, {"cpu": 4.0}, "--cpu 4.0 is not session s's default"),
        ({"repo": "/a/SkyRL"}, {"repo": "/b/fork"}, "--repo fork is not session s's SkyRL"),
        ({"repo": "/a/SkyRL"}, {"repo": "/b/SkyRL"}, "--repo /b/SkyRL is not session s's /a/SkyRL"),
    ],
)
def test_how_a_contradiction_reads(there: dict[str, Any], wanted: dict[str, Any], says: str) -> None:
    names = there.keys() | wanted.keys()
    assert all_of(contradictions(asked(**there).spec, asked(**wanted).spec, names), "s") == says
    assert contradictions(asked(**there).spec, asked(**wanted).spec, {}) == []


def test_a_secret_that_is_not_asked_for_any_more_is_not_given_again() -> None:
    book = Book(config=Given(secrets=("hf", "wandb")))
    name, _ = book.go()
    book.config = Given(secrets=("hf",))
    choice = book.choose()
    assert (choice.request.name, choice.request.spec.secrets) == (name, ("hf",))
    book.config = NOTHING
    assert book.choose().request.spec.secrets == ()


def test_names_of_what_is_no_part_of_a_spec_never_count() -> None:
    assert contradictions(SPEC, replace(SPEC, gpu=A100), {"idle_timeout_s", "env", "session", "nonsense"}) == []


def test_what_is_named() -> None:
    line = Given(gpu=L4, memory_mib=100)
    config, before = Given(gpu=A100, cpu=2.0, secrets=("hf",), ray=False), Given(cpu=2.0, volume="v")
    assert named(line, config, before) == {
        "gpu": "--gpu",
        "memory_mib": "--memory",
        "secrets": "%config SkyRLMagic.secret =",
        "ray": "%config SkyRLMagic.ray =",
        "volume": "%config SkyRLMagic.volume =",
    }

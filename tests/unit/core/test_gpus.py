from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.gpus import MAX_COUNTS, NO_GPU, Gpu, instead_of, parse_gpu


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        ("L4", Gpu("L4", 1)),
        ("l4", Gpu("L4", 1)),
        ("L4:1", Gpu("L4", 1)),
        (" A100:4 ", Gpu("A100", 4)),
        ("a100-80gb:8", Gpu("A100-80GB", 8)),
        ("H100!:2", Gpu("H100!", 2)),
        ("A10G:4", Gpu("A10", 4)),
        ("b200+", Gpu("B200+", 1)),
        ("B200+:8", Gpu("B200+", 8)),
        ("none", NO_GPU),
        ("NONE", NO_GPU),
    ],
)
def test_parse(text: str, gpu: Gpu) -> None:
    assert parse_gpu(text) == gpu


def test_several_are_one_with_others_that_do_as_well() -> None:
    found = parse_gpu("H100, a100-80gb:2,h100,none")
    assert found == Gpu("H100", 1, (Gpu("A100-80GB", 2), NO_GPU))
    assert str(found) == "H100,A100-80GB:2,none"
    assert found.choices == (Gpu("H100", 1), Gpu("A100-80GB", 2), NO_GPU)
    assert parse_gpu(str(found)) == found


@pytest.mark.parametrize("text", ["H100,", ",H100", "H100,,L4", "H100,L5O"])
def test_each_of_several_is_checked(text: str) -> None:
    with pytest.raises(OptionError, match="there is no GPU"):
        parse_gpu(text)


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("L4", "others too (--gpu L4,A10,A100-40GB), more patience (--wait 30m), --gpu none"),
        (
            "A100-80GB:4",
            (
                "others too (--gpu A100-80GB:4,H100:4,RTX-PRO-6000:4), fewer (--gpu A100-80GB:2), "
                "more patience (--wait 30m), --gpu none"
            ),
        ),
        ("B200", "more patience (--wait 30m), --gpu none"),
        ("H100,H200", "others too (--gpu H100,H200,B200), more patience (--wait 30m), --gpu none"),
        ("A10", "others too (--gpu A10,L4,A100-40GB), more patience (--wait 30m), --gpu none"),
        ("A100", "others too (--gpu A100,L40S,H100), more patience (--wait 30m), --gpu none"),
        ("H100!", "others too (--gpu H100!,A100-80GB,H100), more patience (--wait 30m), --gpu none"),
        ("B200+", "others too (--gpu B200+,B200), more patience (--wait 30m), --gpu none"),
        ("none", "more patience (--wait 30m)"),
    ],
)
def test_what_could_be_asked_for_instead(text: str, ways: str) -> None:
    assert instead_of(parse_gpu(text)) == ways


@pytest.mark.parametrize(
    ("text", "noun"), [("L4", "an L4"), ("T4", "a T4"), ("A100:4", "4 A100"), ("none", "a machine")]
)
def test_as_one_speaks_of_it(text: str, noun: str) -> None:
    assert parse_gpu(text).noun == noun


@pytest.mark.parametrize(
    "text", ["L4:0", "L4:9", "A10:5", "L4:", "L4:x", "L4:-1", "L4:1.0", "L4:٢", "L4:" + "9" * 5000]
)
def test_wrong_count_says_the_range(text: str) -> None:
    with pytest.raises(OptionError, match=r"the count of \w+ is 1 to \d, as in"):
        parse_gpu(text)


@pytest.mark.parametrize(("text", "nearest"), [("A1000", "A100"), ("h200s", "H200"), ("RTX-PRO", "RTX-PRO-6000")])
def test_unknown_type_names_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(OptionError, match=f"did you mean {nearest}"):
        parse_gpu(text)


@pytest.mark.parametrize("text", ["B300", "b300:2"])
def test_a_gpu_that_comes_only_with_another_says_so(text: str) -> None:
    with pytest.raises(OptionError, match=r"B300 cannot be asked for alone; there is B200\+, "):
        parse_gpu(text)


def test_a_far_off_type_lists_all() -> None:
    with pytest.raises(OptionError, match="types: T4, L4, "):
        parse_gpu("quux")


def test_none_takes_no_count() -> None:
    with pytest.raises(OptionError):
        parse_gpu("none:1")


@given(st.sampled_from(sorted(MAX_COUNTS)), st.data())
def test_what_is_written_reads_back(gpu_type: str, data: st.DataObject) -> None:
    gpu = Gpu(gpu_type, data.draw(st.integers(1, MAX_COUNTS[gpu_type])))
    assert parse_gpu(str(gpu)) == gpu
    assert gpu.modal is not None
    assert parse_gpu(gpu.modal) == gpu


def test_no_gpu_is_none_for_modal() -> None:
    assert NO_GPU.modal is None
    assert parse_gpu(str(NO_GPU)) == NO_GPU


@given(st.text())
def test_any_text_is_a_gpu_or_an_option_error(text: str) -> None:
    try:
        gpu = parse_gpu(text)
    except OptionError:
        return
    assert gpu == NO_GPU or 1 <= gpu.count <= MAX_COUNTS[gpu.type]

"""The table of releases: complete, in order, and found by number."""

from pathlib import Path

import pytest

from llmopt.triton.releases import LAST_ONNXRUNTIME, find_release, list_releases
from tests.models import REPOSITORY


def test_a_release_names_what_its_containers_hold() -> None:
    release = find_release("24.10")
    assert (release.python, release.onnxruntime, release.onnx_opset) == ("3.10", "1.19.2", 21)
    assert (release.tensorrt, release.vllm) == ("10.5", "0.5.5")
    assert release.image == "tritonserver:24.10-py3"
    assert release.vllm_image == "tritonserver:24.10-vllm-python-py3"
    assert release.environment_opset == LAST_ONNXRUNTIME["3.10"][1] == 23
    assert find_release("26.07").environment_opset is None


def test_the_table_rises_and_no_later_release_loads_less() -> None:
    releases = list_releases()
    numbers = [each.release for each in releases]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 25
    opsets = [each.onnx_opset for each in releases]
    assert opsets == sorted(opsets)


def test_an_unknown_release_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match=r"unknown release '24\.13'; did you mean 24\.12\?"):
        find_release("24.13")


def test_the_documentation_shows_the_same_table() -> None:
    text = Path(REPOSITORY / "docs" / "triton.md").read_text(encoding="utf-8")
    shown = [line for line in text.splitlines() if line.startswith("| 2")]
    assert shown == [
        f"| {each.release} | {each.python} | {each.onnxruntime} | {each.onnx_opset} | "
        f"{each.tensorrt or 'not known'} | {each.vllm} |"
        for each in list_releases()
    ]

"""What all shapes write alike: links or copies, instances, version policy, parameters, README."""

import errno
import os
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.triton_description import RepositoryModel, TritonDescription
from llmopt.triton.model_config import make_config, read_config, write_config
from llmopt.triton.releases import find_release
from llmopt.triton.repository import (
    RateLimit,
    ServingOptions,
    add_instances,
    add_parameters,
    add_version_policy,
    make_model_folders,
    names_packages,
    place_file,
    write_requirements,
)
from llmopt.triton.repository_readme import write_readme


def make_options(**fields: object) -> ServingOptions:
    given = {"model_name": "m", "version": 1, "version_policy": "latest", "device": "cpu"}
    return ServingOptions(**{**given, **fields})  # type: ignore[arg-type]


def written(folder: Path, options: ServingOptions, *, is_python: bool = True) -> pb.ModelConfig:
    """Returns a config with all common parts, as it reads back from its file."""
    config = make_config("m", "python", 0, (), ())
    add_instances(config, options)
    add_version_policy(config, options)
    add_parameters(config, options, is_python=is_python)
    write_config(folder, config)
    return read_config(folder)


def test_a_file_is_linked_through_links_and_copied_where_none_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("weights")
    place_file(tmp_path / "link", tmp_path / "placed")
    assert not (tmp_path / "placed").is_symlink()
    assert (tmp_path / "placed").samefile(tmp_path / "weights")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place_file(tmp_path / "link", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"abc"
    assert not (tmp_path / "copied").samefile(tmp_path / "weights")


def test_an_export_is_copied_since_onnx_refuses_linked_weights(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(b"abc")
    place_file(tmp_path / "model.onnx.data", tmp_path / "placed")
    assert (tmp_path / "placed").read_bytes() == b"abc"
    assert (tmp_path / "model.onnx.data").stat().st_nlink == 1


def test_a_full_disk_is_not_taken_for_a_missing_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"abc")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        place_file(tmp_path / "weights", tmp_path / "placed")


def test_instances_go_where_they_are_asked_for(tmp_path: Path) -> None:
    limit = RateLimit({"memory": 2}, priority=1)
    options = make_options(device="cuda", gpus=(1, 3), instances=2, rate_limit=limit)
    (group,) = written(tmp_path, options).instance_group
    assert group.kind == pb.ModelInstanceGroup.KIND_GPU
    assert (group.count, list(group.gpus)) == (2, [1, 3])
    assert group.rate_limiter.priority == 1
    (resource,) = group.rate_limiter.resources
    assert (resource.name, resource.count) == ("memory", 2)
    (on_cpu,) = written(tmp_path, make_options()).instance_group
    assert on_cpu.kind == pb.ModelInstanceGroup.KIND_CPU
    assert not on_cpu.HasField("rate_limiter")


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("latest", "version_policy { latest { num_versions: 1 } }"),
        ("all", "version_policy { all { } }"),
        ((1, 3), "version_policy { specific { versions: 1 versions: 3 } }"),
    ],
)
def test_version_policies_are_written_out(tmp_path: Path, policy: object, text: str) -> None:
    config = written(tmp_path, make_options(version_policy=policy))
    assert config.version_policy == text_format.Parse(text, pb.ModelConfig()).version_policy


def test_the_environment_is_a_parameter_of_python_models_alone(tmp_path: Path) -> None:
    options = make_options(environment="/env", parameters={"key": "値"})
    config = written(tmp_path, options)
    assert {k: v.string_value for k, v in config.parameters.items()} == {
        "EXECUTION_ENV_PATH": "/env",
        "key": "値",
    }
    assert "値" in (tmp_path / "config.pbtxt").read_text(encoding="utf-8")
    assert list(written(tmp_path, options, is_python=False).parameters) == ["key"]


def test_requirements_may_name_no_package(tmp_path: Path) -> None:
    assert not names_packages(write_requirements(tmp_path, "for a test: nothing", ()))
    path = write_requirements(tmp_path, "for a test", ("numpy<2", "jinja2"))
    assert path.read_text(encoding="utf-8") == "# for a test\nnumpy<2\njinja2\n"
    assert names_packages(path)


def test_a_version_has_its_own_folder(tmp_path: Path) -> None:
    folder, version_folder = make_model_folders(tmp_path, "m", 3)
    assert version_folder == folder / "3" == tmp_path / "m" / "3"
    assert version_folder.is_dir()


@pytest.mark.parametrize(
    ("lacks_packages", "start"),
    [
        (False, "\n  tritonserver --model-repository=/srv --disable-auto-complete-config\n"),
        (True, '\n  bash -c "pip install -q -r /srv/requirements.txt && tritonserver '),
    ],
)
def test_the_readme_starts_the_release_with_what_its_python_lacks(
    tmp_path: Path, lacks_packages: bool, start: str
) -> None:
    (tmp_path / "衣").mkdir()
    (tmp_path / "衣" / "config.pbtxt").write_text('name: "衣" backend: "python"', encoding="utf-8")
    description = TritonDescription(
        shape="generate",
        task="generate",
        model_name="衣",
        models=(RepositoryModel(name="衣", role="generate", backend="python"),),
        triton_release="25.12",
        device="cuda",
        max_batch_size=8,
        prompt="それ'は?",
    )
    write_readme(
        tmp_path, description, find_release("25.12"), "/srv", lacks_packages=lacks_packages
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "docker run --rm --gpus all " in text
    assert '-v "$PWD:/srv:ro" "$NGC/tritonserver:25.12-py3"' in text
    assert start in text
    assert "localhost:8000/v2/models/衣/generate" in text
    assert """'{"text_input": "それ'"'"'は?", "max_tokens": 64, "temperature": 0}'""" in text

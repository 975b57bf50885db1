"""Ensemble repositories as files: configs, joints, links, and what is refused before any work."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmopt.errors import IncompatibleError, InputError
from llmopt.triton.ensemble_repository import EnsemblePlan, check_ensemble
from llmopt.triton.ensemble_rules import choose_buckets
from llmopt.triton.ensemble_tokenizer import EnsembleTokenizer
from llmopt.triton.model_config import read_config
from tests.export.encoders import HIDDEN, VOCABULARY
from tests.models import TINY_MODEL
from tests.triton.ensembles import BUCKETS, MAX_BATCH_SIZE, describe_engine, make_plan, write

pytestmark = pytest.mark.usefixtures("one_thread")

TINY_VOCABULARY = json.loads((TINY_MODEL / "config.json").read_text())["vocab_size"]
GRID = ((1, 8), (9, 16), (17, 32))


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EnsemblePlan]:
    """One plan for each task; do not write into their folders."""
    pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
    folder = tmp_path_factory.mktemp("plans")
    return {task: make_plan(folder / task, task) for task in ("score", "embed", "fill_mask")}


def list_io(config: Any) -> dict[str, tuple[str, list[int]]]:
    """Returns tensor → data type and dims."""
    return {t.name: (t.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[
        t.data_type].name, list(t.dims)) for t in (*config.input, *config.output)}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "engine_io", "answers"),
    [
        (
            "score",
            {"logits": ("TYPE_FP32", [1, TINY_VOCABULARY])},
            {"tokens": ("TYPE_STRING", [5])},
        ),
        (
            "fill_mask",
            {
                "masked_positions": ("TYPE_INT64", [1]),
                "logits": ("TYPE_FP32", [len(VOCABULARY)]),
                "token_type_ids": ("TYPE_INT64", [-1]),
            },
            {"text_output": ("TYPE_STRING", [1]), "logprobs": ("TYPE_FP32", [5])},
        ),
        (
            "embed",
            {"last_hidden_state": ("TYPE_FP32", [-1, HIDDEN])},
            {"embedding": ("TYPE_FP32", [HIDDEN])},
        ),
    ],
)
def test_the_models_are_joined_by_what_they_declare(
    plans: dict[str, EnsemblePlan],
    tmp_path: Path,
    task: str,
    engine_io: dict[str, tuple[str, list[int]]],
    answers: dict[str, tuple[str, list[int]]],
) -> None:
    description = write(tmp_path, plans[task], "served")
    configs = {model.role: read_config(tmp_path / model.name) for model in description.models}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        model.name for model in description.models
    }
    assert engine_io.items() <= list_io(configs["engine"]).items()
    assert answers.items() <= list_io(configs["ensemble"]).items()
    for role, config in configs.items():
        assert config.name == description.find_model(role).name
        assert config.max_batch_size == MAX_BATCH_SIZE
        assert config.HasField("dynamic_batching") == (role == "engine")
    known = {"text_input": list_io(configs["ensemble"])["text_input"]}
    for step in configs["ensemble"].ensemble_scheduling.step:
        stage = read_config(tmp_path / step.model_name)
        declared = list_io(stage)
        assert set(step.input_map) == {tensor.name for tensor in stage.input}
        assert set(step.output_map) == {tensor.name for tensor in stage.output}
        for name, tensor in step.input_map.items():
            assert known[tensor] == declared[name], (step.model_name, name)
        known |= {tensor: declared[name] for name, tensor in step.output_map.items()}
    given_back = {tensor.name for tensor in configs["ensemble"].output}
    assert given_back == {tensor.name for tensor in configs["postprocessor"].output}


def test_one_position_per_row_is_reshaped_for_the_engine_alone(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    write(tmp_path, plans["fill_mask"], "served")
    for role, is_reshaped in (("engine", True), ("tokenizer", False)):
        config = read_config(tmp_path / f"served_{role}")
        tensors = {tensor.name: tensor for tensor in (*config.input, *config.output)}
        assert tensors["masked_positions"].HasField("reshape") == is_reshaped
        assert not tensors["input_ids"].HasField("reshape")


def test_the_export_is_copied_and_small_folders_are_whole(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    description = write(tmp_path, plans["score"], "served", version=3)
    for name in ("model.onnx", "model.onnx.data"):
        placed = tmp_path / "served_engine/3" / name
        assert placed.read_bytes() == (plans["score"].source / name).read_bytes()
    assert [path.name for path in (tmp_path / "served/3").iterdir()] == ["placeholder.txt"]
    assert description.model == plans["score"].model
    assert description.buckets == BUCKETS
    assert description.model_sha256 is not None
    settings = json.loads((tmp_path / "served_tokenizer/3/settings.json").read_text())
    assert settings["padding_side"] == "left"
    assert settings["outputs"] == ["input_ids", "attention_mask"]
    for path in tmp_path.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_a_bert_is_padded_on_the_right_and_its_tokenizer_names_what_it_needs(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    description = write(tmp_path, plans["fill_mask"], "served")
    settings = json.loads((tmp_path / "served_tokenizer/1/settings.json").read_text())
    assert settings["padding_side"] == "right"
    assert settings["mask_id"] == VOCABULARY.index("[MASK]")
    assert "[MASK]" in description.prompt
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert lines[0] == ("# the Python 3.10 that serves served in tritonserver:24.10-py3")
    assert lines[1:] == ["numpy>=1.26,<2", "transformers>=4.46", "fugashi", "unidic-lite"]
    texts = json.loads((tmp_path / "served_postprocessor/1/tokens.json").read_text())
    assert texts[VOCABULARY.index("縫う")] == "縫う"
    assert len(texts) == len(VOCABULARY)


def test_options_are_the_engines(plans: dict[str, EnsemblePlan], tmp_path: Path) -> None:
    plan = replace(plans["score"], preferred_batch_sizes=(4, 8), response_cache=True)
    write(
        tmp_path,
        plan,
        "served",
        device="cuda",
        gpus=(1,),
        instances=2,
        version_policy=(1, 2),
        parameters={"enable_mem_arena": "0"},
        environment="/models/environment",
    )
    engine, tokenizer = (read_config(tmp_path / f"served_{r}") for r in ("engine", "tokenizer"))
    kinds = type(engine.instance_group[0]).Kind
    (group,) = engine.instance_group
    assert (group.count, list(group.gpus), group.kind) == (2, [1], kinds.Value("KIND_GPU"))
    (group,) = tokenizer.instance_group
    assert (group.count, list(group.gpus), group.kind) == (1, [], kinds.Value("KIND_CPU"))
    assert list(engine.dynamic_batching.preferred_batch_size) == [4, 8]
    assert engine.dynamic_batching.max_queue_delay_microseconds == 1000
    assert engine.response_cache.enable
    assert not tokenizer.HasField("response_cache")
    assert {k: v.string_value for k, v in engine.parameters.items()} == {
        "enable_mem_arena": "0",
        "intra_op_thread_count": "1",
    }
    assert tokenizer.parameters["EXECUTION_ENV_PATH"].string_value == "/models/environment"
    for config in (engine, tokenizer, read_config(tmp_path / "served")):
        assert list(config.version_policy.specific.versions) == [1, 2]


def test_each_bucket_is_warmed_up_in_its_shape(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    write(tmp_path / "warm", plans["fill_mask"], "served")
    engine = read_config(tmp_path / "warm/served_engine")
    shapes = [
        (w.batch_size, {name: list(given.dims) for name, given in w.inputs.items()})
        for w in engine.model_warmup
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert shapes == [
        (MAX_BATCH_SIZE, {**{n: [bucket] for n in names}, "masked_positions": [1]})
        for bucket in BUCKETS
    ]
    write(tmp_path / "cold", replace(plans["fill_mask"], warm_up=False), "served")
    assert not read_config(tmp_path / "cold/served_engine").model_warmup


def test_an_engine_is_served_by_tensorrt_with_its_profiles(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    model = plans["embed"].model
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "model.engine").write_bytes(b"an engine's bytes")
    engine = describe_engine(model, GRID)
    plan = replace(plans["embed"], source=folder, engine=engine, buckets=(), threads=None)
    description = write(tmp_path / "repository", plan, "served", device="cuda")
    config = read_config(tmp_path / "repository/served_engine")
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert list(config.instance_group[0].profile) == ["0", "1", "2"]
    assert description.buckets == (8, 16, 32)
    plan_file = tmp_path / "repository/served_engine/1/model.plan"
    assert plan_file.read_bytes() == b"an engine's bytes"
    assert description.engine is not None
    assert (description.engine.sha256, description.model_sha256) == ("b" * 64, "a" * 64)


@pytest.mark.parametrize(
    ("positions", "buckets"),
    [(512, (16, 32, 64, 128, 256, 512)), (64, (16, 32, 64)), (100, (16, 32, 64, 100)), (8, (8,)),
     (131072, (16, 32, 64, 128, 256, 512))],
)  # fmt: skip
def test_buckets_without_profiles_are_powers_of_2(
    plans: dict[str, EnsemblePlan], positions: int, buckets: tuple[int, ...]
) -> None:
    model = plans["embed"].model.model_copy(update={"max_position_embeddings": positions})
    assert choose_buckets(model, ()) == buckets


def changed_model(plan: EnsemblePlan, **fields: Any) -> EnsemblePlan:
    return replace(plan, model=plan.model.model_copy(update=fields))


@pytest.mark.parametrize(
    ("task", "fields", "message", "remedy"),
    [
        ("score", {"kv_cache": True}, "takes a key-value cache", "kv_cache: false"),
        ("score", {"last_token_logits": False}, "logits of every token", "last_token_logits: true"),
        ("fill_mask", {"masked_positions": False}, "logits of every token", "masked_positions"),
        ("embed", {"task": "fill_mask"}, "was exported for fill_mask", "task: embed"),
        ("score", {"dtype": "bfloat16"}, "exported in bfloat16", "float16"),
        (
            "score",
            {"weights": "qdq_int4", "session_options": {"session.x": "0"}},
            "needs onnxruntime's session option session.x: 0",
            "matmulnbits",
        ),
    ],
)
def test_models_that_can_not_answer_so_are_refused(
    plans: dict[str, EnsemblePlan], task: str, fields: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(IncompatibleError, match=message) as caught:
        check_ensemble(changed_model(plans[task], **fields))
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"buckets": (16, 65)}, "bucket 65 is beyond the model's max_position_embeddings 64"),
        ({"buckets": (16, 48)}, "no profile of the engine takes 1 rows of 48 tokens"),
        ({"max_batch_size": 9}, "no profile of the engine takes 9 rows of 8 tokens"),
    ],
)
def test_shapes_that_the_engine_does_not_take_are_refused(
    plans: dict[str, EnsemblePlan], fields: dict[str, Any], message: str
) -> None:
    plan = replace(plans["embed"], engine=describe_engine(plans["embed"].model, GRID))
    check_ensemble(plan)
    with pytest.raises(IncompatibleError, match=message):
        check_ensemble(replace(plan, **fields))


def test_an_engine_of_tensorrt_rtx_is_refused(plans: dict[str, EnsemblePlan]) -> None:
    engine = describe_engine(plans["embed"].model, GRID, "tensorrt_rtx")
    with pytest.raises(IncompatibleError, match="built by tensorrt_rtx; Triton's tensorrt backend"):
        check_ensemble(replace(plans["embed"], engine=engine))


def test_a_decoders_tokenizer_has_no_mask_to_fill(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no mask token"):
        write(tmp_path, replace(plans["fill_mask"], tokenizer=TINY_MODEL), "served")


def test_a_tokenizer_names_the_programs_that_it_calls(plans: dict[str, EnsemblePlan]) -> None:
    opened = EnsembleTokenizer.open(plans["fill_mask"].tokenizer)
    bert = opened.tokenizer
    assert opened.list_requirements()[1:] == ("fugashi", "unidic-lite")
    bert.mecab_kwargs = {"mecab_dic": "ipadic"}
    bert.subword_tokenizer_type = "sentencepiece"
    assert opened.list_requirements()[1:] == ("fugashi", "ipadic", "sentencepiece")
    bert.mecab_kwargs = {"mecab_dic": "unidic"}
    with pytest.raises(IncompatibleError, match="mecab and the dictionary unidic; an"):
        opened.list_requirements()
    bert.word_tokenizer_type = "jumanpp"
    with pytest.raises(IncompatibleError, match="words with jumanpp; an ensemble"):
        opened.list_requirements()
    assert EnsembleTokenizer.open(TINY_MODEL).list_requirements() == ("tokenizers",)


def write_tokenizer(folder: Path, name: str, **config: Any) -> Path:
    """Writes a checkpoint's tokenizer in Python with two tokens; returns its folder."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("a</w> 1\nb 1\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    given = {"tokenizer_class": name, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder


def test_a_tokenizer_of_files_that_do_not_travel_is_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "model", "PhobertTokenizer")
    (folder / "bpe.codes").write_text("a b 1\n")
    (tmp_path / "1").mkdir()
    opened = EnsembleTokenizer.open(folder)
    with pytest.raises(IncompatibleError, match=r"needs other files .*vocab\.txt\): .* the copy"):
        opened.write(tmp_path / "1")


def test_a_tokenizer_of_own_code_is_refused_by_its_name(tmp_path: Path) -> None:
    auto_map = {"AutoTokenizer": ["own.OwnTokenizer", None]}
    folder = write_tokenizer(tmp_path / "model", "OwnTokenizer", auto_map=auto_map)
    (folder / "config.json").write_text(json.dumps({"model_type": "own"}))
    with pytest.raises(IncompatibleError, match=r"is code of its own \(own\.OwnTokenizer, as its"):
        EnsembleTokenizer.open(folder)


def test_int8_encoders_and_matmulnbits_decoders_are_served(
    plans: dict[str, EnsemblePlan], tmp_path: Path
) -> None:
    check_ensemble(changed_model(plans["fill_mask"], weights="int8_dynamic"))
    check_ensemble(changed_model(plans["score"], weights="matmulnbits"))

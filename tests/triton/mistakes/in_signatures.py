"""Mistakes between a config and the ONNX graph, the engine or the checkpoint that it serves."""

import hashlib
from pathlib import Path

from tests.triton.good_repositories import write_graph
from tests.triton.mistakes.planting import (
    Edit,
    Mistake,
    add_field,
    describe,
    in_config,
    rename,
    replace,
    write,
)

IDS = '"input_ids" data_type: TYPE_INT64 dims: [ -1 ] }'
LOGITS = '"logits" data_type: TYPE_FP32 dims: [ 8 ]'
NEXT_LOGITS = ("postprocessor", '"logits" data_type: TYPE_FP32 dims: [ 8 ]')


def _use_opset(version: int) -> Edit:
    """Writes the graph in another version of ONNX's operators."""

    def edit(folder: Path) -> None:
        path = folder / "engine" / "1" / "model.onnx"
        path.with_name("model.onnx.data").unlink()
        write_graph(path, version)
        describe(model_sha256=hashlib.sha256(path.read_bytes()).hexdigest())(folder)

    return edit


SIGNATURE_MISTAKES = (
    Mistake(
        "a file that is no ONNX graph",
        "encoder",
        (write("engine/1/model.onnx", b"\x08version https://git-lfs.github.com/spec/v1"),),
        "engine/1/model.onnx is no ONNX model",
    ),
    Mistake(
        "an input that the graph does not have",
        "encoder",
        (
            in_config("engine", '{ name: "input_ids" data_type', '{ name: "ids" data_type'),
            in_config("engine", 'key: "input_ids"', 'key: "ids"'),
            in_config("encoder", 'input_map { key: "input_ids"', 'input_map { key: "ids"'),
        ),
        'input "ids" names no input of the graph; input_ids, attention_mask are allowed',
    ),
    Mistake(
        "an input of the graph that the config lacks",
        "encoder",
        (
            in_config("engine", IDS + ",", IDS),
            in_config(
                "engine", '  { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }\n', ""
            ),
            in_config(
                "engine",
                '    inputs { key: "attention_mask" value { data_type: TYPE_INT64 dims: [ 4 ] '
                "zero_data: true } }\n",
                "",
            ),
            in_config(
                "encoder",
                '      input_map { key: "attention_mask" value: "attention_mask" }\n',
                "",
            ),
        ),
        'engine/config.pbtxt: input lacks "attention_mask"; the graph needs',
    ),
    Mistake(
        "an output that the graph does not have",
        "encoder",
        (
            in_config("engine", 'name: "logits"', 'name: "output"'),
            in_config("encoder", 'output_map { key: "logits"', 'output_map { key: "output"'),
        ),
        'output "output" names no output of the graph; logits are allowed',
    ),
    Mistake(
        "a data type that the graph does not have",
        "encoder",
        (
            in_config("engine", LOGITS, LOGITS.replace("FP32", "FP16")),
            in_config(NEXT_LOGITS[0], NEXT_LOGITS[1], NEXT_LOGITS[1].replace("FP32", "FP16")),
        ),
        'output "logits".data_type is TYPE_FP16; the graph\'s TYPE_FP32 is allowed',
    ),
    Mistake(
        "a shape that the graph does not have",
        "encoder",
        (
            in_config("engine", LOGITS, LOGITS.replace("[ 8 ]", "[ 9 ]")),
            in_config(NEXT_LOGITS[0], NEXT_LOGITS[1], NEXT_LOGITS[1].replace("[ 8 ]", "[ 9 ]")),
        ),
        'output "logits".dims is [9] without the batch axis; the model\'s [8] is allowed',
    ),
    Mistake(
        "an open size where the graph's output has a fixed one",
        "encoder",
        (in_config("engine", LOGITS, LOGITS.replace("[ 8 ]", "[ -1 ]")),),
        'output "logits".dims is [-1] without the batch axis; the model\'s [8] is allowed',
    ),
    Mistake(
        "a batch axis counted twice",
        "encoder",
        (in_config("engine", LOGITS, LOGITS.replace("[ 8 ]", "[ -1, 8 ]")),),
        'output "logits".dims is [-1, 8] without the batch axis; the model\'s [8]',
    ),
    Mistake(
        "external data of another name",
        "encoder",
        (rename("engine/1/model.onnx.data", "engine/1/weights.data"),),
        'external data "model.onnx.data" is missing',
    ),
    Mistake(
        "external data cut short",
        "encoder",
        (write("engine/1/model.onnx.data", bytes(100)),),
        'external data "model.onnx.data" has 100 of 512 bytes',
    ),
    Mistake(
        "operators newer than the release's onnxruntime",
        "encoder",
        (_use_opset(24),),
        "opset_import is 24; onnxruntime 1.19.2 of release 24.10 takes up to 21",
    ),
    Mistake(
        "threads that are no number",
        "encoder",
        (
            add_field(
                "engine",
                'parameters { key: "intra_op_thread_count" value { string_value: "all" } }',
            ),
        ),
        'parameters.intra_op_thread_count is "all"; a whole number is allowed',
    ),
    Mistake(
        "an accelerator that onnxruntime does not have",
        "encoder",
        (
            add_field(
                "engine",
                "optimization { execution_accelerators { cpu_execution_accelerator : "
                '[ { name : "oneDNN" } ] } }',
            ),
        ),
        'cpu_execution_accelerator names "oneDNN"; openvino are allowed',
    ),
    Mistake(
        "an engine of TensorRT-RTX under backend tensorrt",
        "engine",
        (describe(engine__backend="tensorrt_rtx"),),
        'backend is "tensorrt"; it loads engines of TensorRT; this one is of TensorRT-RTX',
    ),
    Mistake(
        "an engine of another TensorRT than the release's",
        "engine",
        (describe(engine__tensorrt_version="10.13.2"),),
        "engine.tensorrt_version is 10.13.2; release 24.10 has TensorRT 10.5",
    ),
    Mistake(
        "another engine than the one described",
        "engine",
        (write("engine/1/model.plan", b"another engine"),),
        "engine/1/model.plan is another engine than triton.json describes",
    ),
    Mistake(
        "a larger batch than the engine takes",
        "engine",
        (
            *(
                in_config(name, "max_batch_size: 8", "max_batch_size: 16")
                for name in ("engine", "encoder", "tokenizer", "postprocessor")
            ),
            describe(max_batch_size=16),
        ),
        "max_batch_size is 16; the engine's profiles take batches up to 8",
    ),
    Mistake(
        "a profile that the engine does not have",
        "engine",
        (in_config("engine", '[ "0", "1" ]', '[ "0", "2" ]'),),
        'instance_group.profile holds "2"; the engine has 2 profiles: 0 to 1 is allowed',
    ),
    Mistake(
        "a bucket outside every profile",
        "engine",
        (
            describe(buckets=[4, 8, 16]),
            replace("tokenizer/1/settings.json", "[4, 8]", "[4, 8, 16]"),
        ),
        "triton.json: buckets holds 16; no profile of engine takes batch 1 of 16 tokens",
    ),
    Mistake(
        "a bucket of a profile that no instance runs",
        "engine",
        (in_config("engine", ' profile: [ "0", "1" ]', ""),),
        "buckets holds 8; no profile of engine takes batch 1 of 8 tokens: short",
    ),
    Mistake(
        "an input that the engine does not have",
        "engine",
        (
            in_config("engine", '{ name: "input_ids" data_type', '{ name: "ids" data_type'),
            in_config("engine", 'key: "input_ids"', 'key: "ids"'),
            in_config("encoder", 'input_map { key: "input_ids"', 'input_map { key: "ids"'),
        ),
        'input "ids" names no input of the engine; input_ids, attention_mask are allowed',
    ),
    Mistake(
        "a data type that the engine does not have",
        "engine",
        (
            in_config("engine", LOGITS, LOGITS.replace("FP32", "FP16")),
            in_config(NEXT_LOGITS[0], NEXT_LOGITS[1], NEXT_LOGITS[1].replace("FP32", "FP16")),
        ),
        'output "logits".data_type is TYPE_FP16; the engine\'s TYPE_FP32 is allowed',
    ),
    Mistake(
        "model.json that is no JSON",
        "llm",
        (write("llm/1/model.json", '{"model": "/models/llm/1/checkpoint",}'),),
        "llm/1/model.json is no JSON",
    ),
    Mistake(
        "model.json without a model",
        "llm",
        (write("llm/1/model.json", '{"gpu_memory_utilization": 0.9}'),),
        "llm/1/model.json: model is not set",
    ),
    Mistake(
        "vLLM with more memory than there is",
        "llm",
        (replace("llm/1/model.json", "0.9", "90"),),
        "gpu_memory_utilization is 90; more than 0, up to 1, is allowed",
    ),
    Mistake(
        "a checkpoint that is not where model.json says",
        "llm",
        (rename("llm/1/checkpoint", "llm/1/weights"),),
        'llm/1/model.json: model is "/models/llm/1/checkpoint"; a checkpoint is needed at',
    ),
    Mistake(
        "a checkpoint by a relative path",
        "llm",
        (replace("llm/1/model.json", "/models/llm/1/checkpoint", "./checkpoint"),),
        'model is "./checkpoint"; an absolute path, or a name on the hub, is allowed',
    ),
    Mistake(
        "an input that vLLM's backend does not know",
        "llm",
        (in_config("llm", 'name: "text_input"', 'name: "prompt"'),),
        'llm/config.pbtxt: input lacks "text_input"',
    ),
)

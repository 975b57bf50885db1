"""What users get wrong: the right exit code, a message that helps, and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Finished, RunHere
from tests.conftest import RunCli
from tests.models import edit_json, make_model
from tests.recipe.harness import GATE, GPTQ, QUANTIZE, make_recipe, write_recipe

Damage = Callable[[Path], object]
SMALL = ("--samples", "2", "--seq-len", "64", "--group-size", "32")


def assert_refused(done: Finished, folder: Path, code: int, *words: str) -> None:
    """Checks code and message, and that neither `-o o` nor the store holds anything."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (folder / "out").exists()
    assert not (folder / "o").exists() or not list((folder / "o").iterdir())
    for kind in ("artifacts", "partial"):
        kept = folder / ".llmopt" / "store" / kind
        assert not kept.exists() or not list(kept.iterdir())


@pytest.fixture
def inputs(random_model: Path, documents: Path) -> tuple[Path, Path]:
    """A model and documents with which nothing is wrong."""
    return random_model, documents


def truncate(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def make_pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def poison(model: Path, tensor: str, value: float) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[tensor].view(-1)[7] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["model.safetensors is truncated", "bytes past the end", "→ download"]),
        (
            lambda model: (model / "model.safetensors").write_bytes(b"x" * 100),
            ["model.safetensors is truncated or no safetensors file", "→ download"],
        ),
        (
            lambda model: edit_json(model / "config.json", intermediate_size=512),
            [
                "config.json and the weights disagree",
                "mlp.gate_proj.weight has shape [256, 128], expected [512, 128]",
                "→ check that config.json belongs to these weights",
            ],
        ),
        (
            lambda model: edit_json(model / "config.json", num_hidden_layers=4),
            ["disagree", "tensor model.layers.3.input_layernorm.weight", "is missing"],
        ),
        (
            lambda model: edit_json(model / "config.json", num_hidden_layers=2),
            ["disagree", "model.layers.2.", "belongs to no part of the model"],
        ),
        (
            lambda model: (model / "config.json").unlink(),
            ["is no model folder: it holds no config.json"],
        ),
        (
            lambda model: (model / "config.json").write_text("{", encoding="utf-8"),
            ["config.json is not valid JSON"],
        ),
        (
            lambda model: (model / "tokenizer.json").unlink(),
            ["holds no tokenizer", "→ copy tokenizer.json"],
        ),
        (
            lambda model: (model / "tokenizer.json").write_text("{", encoding="utf-8"),
            ["tokenizer.json is truncated or no tokenizer file", "→ copy it"],
        ),
        (make_pickle, ["pytorch_model.bin is a pickle checkpoint", "→ llmopt reads no pickles"]),
        (
            lambda model: (model / "model.safetensors").unlink(),
            ["holds no weights: neither model.safetensors nor model.safetensors.index.json"],
        ),
        (
            lambda model: edit_json(
                model / "config.json", model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"]
            ),
            ["architecture GPTNeoXForCausalLM", "is not supported; supported: llama, mistral"],
        ),
    ],
    ids=[
        "truncated", "noise", "shape", "block missing", "block too many", "no config",
        "config no JSON", "no tokenizer", "tokenizer torn", "pickle", "no weights", "architecture",
    ],
)  # fmt: skip
def test_a_model_that_can_not_be_used(
    run_here: RunHere,
    tmp_path: Path,
    random_model: Path,
    documents: Path,
    damage: Damage,
    words: list[str],
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    damage(model)
    done = run_here("quantize", "gptq", model, "--data", documents, *SMALL, "-o", "o")
    assert_refused(done, tmp_path, 8, "unsuitable input: ", str(model), *words)
    recipe = make_recipe(model, documents, {"quantize": GPTQ, "gate": GATE})
    path = write_recipe(tmp_path, recipe)
    for command in ("validate", "run"):
        assert_refused(run_here(command, path), tmp_path, 8, *words)


@pytest.mark.parametrize("method", ["gptq", "rtn"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(
    run_here: RunHere,
    tmp_path: Path,
    random_model: Path,
    documents: Path,
    method: str,
    value: float,
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    poison(model, "model.layers.2.mlp.down_proj.weight", value)
    data = ("--data", documents, *SMALL) if method == "gptq" else ("--group-size", "32")
    done = run_here("quantize", method, model, *data, "-o", "o")
    words = "tensor model.layers.2.mlp.down_proj.weight holds NaN or infinity"
    assert_refused(done, tmp_path, 8, "model.safetensors", words)


@pytest.mark.parametrize("method", ["rtn", "nf4", "fp8", "int8"])
def test_a_model_without_a_tokenizer_is_refused_without_data_too(
    run_here: RunHere, tmp_path: Path, random_model: Path, method: str
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    (model / "tokenizer.json").unlink()
    done = run_here("quantize", method, model, "-o", "o")
    assert_refused(done, tmp_path, 8, "holds no tokenizer", "→ copy tokenizer.json")


@pytest.mark.parametrize("uses", ["quantize.gptq", "quantize.int8"])
def test_experts_of_a_dense_model(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path, uses: str
) -> None:
    step = {"uses": uses, "model": "base", "data": "calibration", "experts": {"starved": "rtn"}}
    path = write_recipe(tmp_path, make_recipe(random_model, documents, {"quantize": step}))
    for command in ("validate", "plan", "run"):
        words = ("recipe.yaml:", "experts is given, but", "is a dense model (llama)", "→ leave exp")
        assert_refused(run_here(command, path), tmp_path, 7, *words)


def test_a_model_that_is_quantised_already(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    made = run_here("quantize", "rtn", random_model, "--group-size", "32", "-o", "q")
    assert made.returncode == 0
    done = run_here("quantize", "gptq", "q", "--data", documents, *SMALL, "-o", "o")
    words = ("q is quantised already (gptq 4 bits group 32)", "→ start from the original")
    assert_refused(done, tmp_path, 8, *words)
    edit_json(tmp_path / "q" / "config.json", quantization_config=None)
    done = run_here("quantize", "gptq", "q", "--data", documents, *SMALL, "-o", "o")
    words = ("q is quantised already (it holds ", "its config.json has no quantization_config")
    assert_refused(done, tmp_path, 8, *words)


def test_a_tokenizer_with_more_tokens_than_the_model(
    run_here: RunHere, tmp_path: Path, documents: Path
) -> None:
    model = make_model(tmp_path / "model", vocab_size=1000, num_hidden_layers=1)
    for command in (("quantize", "gptq", model, "-o", "o", *SMALL), ("eval", model)):
        done = run_here(*command, "--data", documents)
        words = ("gives token id", "vocab_size is 1000", "→ use the tokenizer that belongs to")
        assert_refused(done, tmp_path, 8, str(model), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["data.jsonl holds no document"]),
        (b"\n\n", ["data.jsonl holds no document"]),
        (
            '{"text": "短い"}\n'.encode(),
            ["data set calibration", "wants 2 samples x 64 tokens = 128 tokens; the 1 documents"],
        ),
        (
            '{"text": "前身頃の寸法"}\n'.encode("shift_jis"),
            ["data.jsonl is not UTF-8: byte 0x91 at offset 10", "→ convert it", "iconv"],
        ),
        (b'{"text": "a"}\n{"text" "b"}\n', ["data.jsonl:2: not valid JSON"]),
        (b'{"body": "a"}\n', ["data.jsonl:1: the row has no field 'text'; it has: body"]),
    ],
    ids=["empty", "blank", "short", "shift_jis", "no JSON", "no field"],
)
def test_data_that_can_not_be_used(
    run_here: RunHere, tmp_path: Path, random_model: Path, content: bytes, words: list[str]
) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    done = run_here("quantize", "gptq", random_model, "--data", "data.jsonl", *SMALL, "-o", "o")
    assert_refused(done, tmp_path, 8, "unsuitable input: ", *words)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--bits", "5"], 2, ["--bits: ", "Input should be 2, 3, 4 or 8 (received 5)"]),
        (["--bits", "four"], 2, ["Invalid value for '--bits'"]),
        (
            ["--group-size", "100"],
            2,
            ["--group-size: ", "Input should be -1, 32, 64 or 128 (received 100)"],
        ),
        (["--format", "awq"], 2, ["--format: ", "'gptq' or 'compressed-tensors'"]),
        (["--damp-percent", "2"], 2, ["--damp-percent: ", "less than 1"]),
        (["--seq-len", "512"], 7, ["seq_len 512 exceeds the model's max_position_embeddings 256"]),
        (["--device", "banana"], 2, ["--device banana: allowed are auto, cpu, cuda, cuda:N"]),
        (["--data", "nowhere.jsonl"], 8, ["data set file nowhere.jsonl does not exist"]),
        (["--data", "data.docx"], 8, ["data.docx is of no kind that can be read", ".parquet"]),
        (["--store", "file"], 8, ["file can't be made: File exists", "--store"]),
        (["-o", "file"], 2, ["file is a file", "→ name a folder with -o"]),
        (["-o", "."], 2, ["is the working directory", "→ name a folder below it"]),
        (["-o", "file/o"], 8, ["file can't be made: ", "→ name another place (-o"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_can_not_be_used(
    run_cli: RunCli,
    tmp_path: Path,
    inputs: tuple[Path, Path],
    options: list[str],
    code: int,
    words: list[str],
) -> None:
    model, documents = inputs
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "data.docx").write_text("x", encoding="utf-8")
    data = () if "--data" in options else ("--data", documents)
    usual = () if {"--group-size", "--seq-len"} & set(options) else SMALL
    output = () if "-o" in options else ("-o", "o")
    done = run_cli("quantize", "gptq", model, *data, *usual, *output, *options)
    assert_refused(done, tmp_path, code, *words)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_an_output_where_nothing_can_be_made(
    run_cli: RunCli, tmp_path: Path, random_model: Path
) -> None:
    done = run_cli("quantize", "rtn", random_model, "-o", "/proc/o", timeout=60)
    assert_refused(done, tmp_path, 8, "/proc takes no files")


def test_a_group_size_that_does_not_divide(
    run_cli: RunCli, tmp_path: Path, documents: Path
) -> None:
    model = make_model(
        tmp_path / "model",
        hidden_size=96,
        intermediate_size=224,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_hidden_layers=1,
    )
    arguments = ("--data", documents, "--samples", "2", "--seq-len", "64", "-o", "o")
    done = run_cli("quantize", "gptq", model, *arguments)
    words = (
        "self_attn.q_proj has 96 input features, not a multiple of group_size 128",
        "mlp.down_proj has 224 input features, not a multiple of group_size 128",
        "→ use group_size 32 or -1",
    )
    assert_refused(done, tmp_path, 7, *words)
    done = run_cli("quantize", "gptq", "nowhere", *arguments)
    assert_refused(done, tmp_path, 8, "model folder nowhere does not exist", "→ a hub id is")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"bits"', '"bitz"', ["unknown key 'steps.quantize.bitz'; did you mean 'bits'?"]),
        ('"bits": 4', '"bits": "four"', ["steps.quantize.bits: Input should be 2, 3, 4 or 8"]),
        ('"quantize.rtn"', '"quantize.rtm"', ["unknown step type", "did you mean 'quantize.rtn'"]),
        ('"model": "quantize"', '"model": "quantise"', ["did you mean 'quantize'?"]),
        ('"model": "base"', '"model": "gate"', ["wants a checkpoint; 'gate' is an evaluation"]),
        ('"model": "base"', '"needs": ["gate"], "model": "base"', ["wait for each other"]),
        ('"name": "small"', '"name": "../../etc"', ["name: String should match pattern"]),
        ('"quantize": {', '"../quantize": {', ["String should match pattern"]),
        ('"small"', '!!python/object/apply:os.abort []', ["tag or merge key 'python/object"]),
        ('"small"', "&a [*a]", ["nested more than 40 deep"]),
        ('"small"', '"small', ["not valid YAML"]),
    ],
)  # fmt: skip
def test_recipes_that_can_not_be_used(
    run_cli: RunCli,
    tmp_path: Path,
    inputs: tuple[Path, Path],
    old: str,
    new: str,
    words: list[str],
) -> None:
    steps = {"quantize": {**QUANTIZE, "bits": 4}, "gate": GATE}
    path = write_recipe(tmp_path, make_recipe(*inputs, steps))
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    done = run_cli("run", path)
    assert_refused(done, tmp_path, 2, "recipe error: ", "recipe.yaml:", *words)


def test_a_split_can_not_leave_its_set(run_cli: RunCli, tmp_path: Path, random_model: Path) -> None:
    recipe = make_recipe(random_model, "unused", {"quantize": GPTQ})
    recipe["datasets"]["calibration"] = {"set": "apparel-ja", "split": "../../x"}
    done = run_cli("run", write_recipe(tmp_path, recipe))
    assert_refused(done, tmp_path, 8, "data set apparel-ja has no split '../../x'; it has: ")


def test_a_missing_recipe(run_cli: RunCli, tmp_path: Path) -> None:
    for command in ("run", "plan", "validate"):
        assert_refused(run_cli(command, "no.yaml"), tmp_path, 2, "recipe no.yaml does not exist")


def test_a_models_own_code_is_not_run(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    """config.json and tokenizer_config.json ask for it; the recipe does not."""
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    marker = tmp_path / "marker"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    (model / "evil.py").write_text(code + "class Evil:\n    pass\n", encoding="utf-8")
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit_json(model / "config.json", auto_map=dict.fromkeys(classes, "evil.Evil"))
    edit_json(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil"] * 2})
    done = run_here("quantize", "gptq", model, "--data", documents, *SMALL, "-o", "o")
    assert done.returncode == 0, done.stderr
    assert run_here("eval", "o", "--data", documents, "--samples", "1").returncode == 0
    assert run_here("verify", model).returncode == 0
    assert not marker.exists()
    assert json.loads((tmp_path / "o" / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert not (tmp_path / "o" / "evil.py").exists()


def test_a_default_window_that_is_longer_than_the_model(
    run_cli: RunCli, tmp_path: Path, random_model: Path
) -> None:
    done = run_cli("quantize", "gptq", random_model, "--samples", "2", "-o", "q")
    assert done.returncode == 7
    assert "seq_len 512 exceeds the model's max_position_embeddings 256" in done.stderr
    assert "→ set seq_len: 256 or less in the data set" in done.stderr
    assert not (tmp_path / "q").exists()


def test_a_folder_that_is_no_store_is_left_alone(run_cli: RunCli, tmp_path: Path) -> None:
    mine = tmp_path / "victim" / "artifacts" / "my-results"
    mine.mkdir(parents=True)
    for command in (("store", "gc"), ("store", "ls")):
        done = run_cli(*command, "--store", tmp_path / "victim")
        assert done.returncode == 8
        assert "is no store of llmopt" in done.stderr
    assert mine.exists()


def test_a_run_that_is_refused_leaves_no_folder_blocked(
    run_cli: RunCli, tmp_path: Path, random_model: Path
) -> None:
    refused = run_cli("quantize", "gptq", random_model, "--samples", "900000", "-o", "q")
    assert refused.returncode in (6, 7), refused.stderr
    huge = ("--samples", "900000", "--seq-len", "256", "--group-size", "32")
    refused = run_cli("quantize", "gptq", random_model, *huge, "-o", "q")
    assert refused.returncode in (6, 8), refused.stderr
    done = run_cli("quantize", "rtn", random_model, "--group-size", "32", "-o", "q")
    assert done.returncode == 0, done.stderr


def test_an_option_by_hand_is_called_by_its_name(
    run_cli: RunCli, tmp_path: Path, random_model: Path
) -> None:
    done = run_cli("quantize", "rtn", random_model, "--bits", "5", "-o", "o")
    assert_refused(done, tmp_path, 2, "recipe error: --bits: Input should be 2, 3, 4 or 8")
    assert "steps." not in done.stderr
    done = run_cli("quantize", "rtn", random_model, "--group-size", "128", "-o", "q", "--bits", "3")
    assert "step quantize" not in done.stderr


def test_files_of_the_user_are_not_written_over(
    run_cli: RunCli, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(documents.read_bytes())
    size = ("--samples", "2", "--seq-len", "8")
    built = run_cli("calibration", "build", mine, "--tokenizer", random_model, *size, "-o", mine)
    assert built.returncode == 2
    assert "mine.jsonl exists already" in built.stderr
    assert mine.read_bytes() == documents.read_bytes()
    made = run_cli("quantize", "rtn", random_model, "--group-size", "32", "-o", "q")
    assert made.returncode == 0, made.stderr
    page = run_cli("report", "q", "-o", mine)
    assert page.returncode == 2
    assert "a page's name ends with .html" in page.stderr
    assert mine.read_bytes() == documents.read_bytes()

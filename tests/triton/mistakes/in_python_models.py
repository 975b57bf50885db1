"""Mistakes in python models: most of them the server never reports."""

from tests.triton.mistakes.planting import Mistake, in_config, remove, replace, write

SCORER, READER, STORY = "scorer/1/model.py", "reader/1/model.py", "story/1/model.py"
TENSOR = 'pb_utils.Tensor("SCORES", scores)'

PYTHON_MISTAKES = (
    Mistake(
        "a syntax error",
        "words",
        (replace(SCORER, "answers = []", "answers = ["),),
        "scorer/1/model.py does not parse",
    ),
    Mistake(
        "a syntax error in a file beside model.py",
        "words",
        (replace("reader/1/codes.py", "def read_codes(text):", "def read_codes(text)"),),
        "reader/1/codes.py does not parse",
    ),
    Mistake(
        "grammar newer than the release's Python",
        "encoder",
        (
            replace(
                "postprocessor/1/model.py",
                "    return pb_utils.Tensor(name, values)",
                "    try:\n        return pb_utils.Tensor(name, values)\n"
                "    except* ValueError:\n        raise",
            ),
        ),
        "postprocessor/1/model.py does not parse",
    ),
    Mistake(
        "a file beside model.py that is not there",
        "words",
        (remove("reader/1/codes.py"),),
        "from .codes import … finds no such file",
    ),
    Mistake(
        "a name that the file beside model.py does not have",
        "words",
        (replace("reader/1/codes.py", "def read_codes", "def to_codes"),),
        "from .codes import … finds no read_codes",
    ),
    Mistake(
        "a package that requirements.txt lacks",
        "encoder",
        (
            replace(
                "tokenizer/1/model.py",
                "import numpy as np\n",
                "import numpy as np\nimport fugashi\n",
            ),
        ),
        "tokenizer/1/model.py: line 7 imports fugashi; packages of requirements.txt are allowed",
    ),
    Mistake(
        "a module that is not imported",
        "words",
        (replace(SCORER, "import numpy as np\n", ""),),
        "scorer/1/model.py: line 16 uses np, which nothing defines",
    ),
    Mistake(
        "a name of the server's module misspelt",
        "words",
        (replace(SCORER, "pb_utils.InferenceResponse(", "pb_utils.InferenceResponce("),),
        "uses triton_python_backend_utils.InferenceResponce; the server's module has no such name",
    ),
    Mistake(
        "no class TritonPythonModel",
        "words",
        (replace(SCORER, "class TritonPythonModel", "class Scorer"),),
        "scorer/1/model.py holds no class TritonPythonModel",
    ),
    Mistake(
        "an empty model.py",
        "words",
        (write(SCORER, ""),),
        "scorer/1/model.py holds no class TritonPythonModel",
    ),
    Mistake(
        "no execute",
        "words",
        (replace(SCORER, "def execute", "def run"),),
        "TritonPythonModel has no execute",
    ),
    Mistake(
        "execute without requests",
        "words",
        (replace(SCORER, "def execute(self, requests):", "def execute(self):"),),
        "TritonPythonModel.execute takes 1 parameters; 2 are allowed",
    ),
    Mistake(
        "initialize without args",
        "words",
        (
            replace(READER, "def initialize(self, args):", "def initialize(self):"),
            replace(READER, 'self.name = args["model_instance_name"]', 'self.name = "reader"'),
        ),
        "TritonPythonModel.initialize takes 1 parameters; 2 are allowed",
    ),
    Mistake(
        "execute that returns nothing",
        "words",
        (replace(SCORER, "        return answers\n", ""),),
        "TritonPythonModel.execute returns nothing; a list of one InferenceResponse",
    ),
    Mistake(
        "a decoupled model that returns its answers",
        "words",
        (
            in_config(
                "scorer",
                "dynamic_batching { preferred_batch_size: [ 4, 8 ] "
                "max_queue_delay_microseconds: 1000 }",
                "model_transaction_policy { decoupled: true }",
            ),
        ),
        "TritonPythonModel.execute calls no get_response_sender",
    ),
    Mistake(
        "an output of another name than the config's",
        "words",
        (replace(SCORER, '"SCORES"', '"scores"'),),
        'writes output "scores"; outputs of config.pbtxt are allowed, others are dropped',
    ),
    Mistake(
        "an output that is never written",
        "encoder",
        (
            replace(
                "postprocessor/1/model.py",
                '        make_tensor("SCORE", logits.max(1).astype(np.float32).reshape(-1, 1)),\n',
                "",
            ),
        ),
        'output "SCORE" is written nowhere in 1/model.py; the source writes WORD',
    ),
    Mistake(
        "an output of another name, by a constant and a function",
        "encoder",
        (replace("postprocessor/1/model.py", 'WORD = "WORD"', 'WORD = "TEXT"'),),
        'output "WORD" is written nowhere in 1/model.py; the source writes SCORE, TEXT',
    ),
    Mistake(
        "an input of another name than the config's",
        "words",
        (replace(SCORER, '(request, "IDS")', '(request, "ids")'),),
        'reads input "ids"; inputs of config.pbtxt are allowed: IDS, MASK',
    ),
    Mistake(
        "an output of float64 where the config says float32",
        "words",
        (replace(SCORER, "astype(np.float32)", "astype(np.float64)"),),
        'output "SCORES" is TYPE_FP64; config.pbtxt says TYPE_FP32',
    ),
    Mistake(
        "an output of int32 where the config says int64",
        "words",
        (
            replace(
                READER, "mask = (ids > 0).astype(np.int64)", "mask = (ids > 0).astype(np.int32)"
            ),
        ),
        'output "MASK" is TYPE_INT32; config.pbtxt says TYPE_INT64',
    ),
    Mistake(
        "an output that another type's zeros make",
        "words",
        (replace(SCORER, TENSOR, 'pb_utils.Tensor("SCORES", np.zeros((len(ids), 3)))'),),
        'output "SCORES" is TYPE_FP64; config.pbtxt says TYPE_FP32',
    ),
    Mistake(
        "an output of another size than the config's",
        "words",
        (replace(SCORER, TENSOR, 'pb_utils.Tensor("SCORES", np.ones((len(ids), 4), np.float32))'),),
        'output "SCORES" has shape [?, 4]; config.pbtxt says [-1, 3]',
    ),
    Mistake(
        "an output without its batch axis",
        "words",
        (replace(SCORER, "astype(np.float32)", "astype(np.float32).reshape(-1)"),),
        'output "SCORES" has shape [?]; config.pbtxt says [-1, 3]',
    ),
    Mistake(
        "a decoupled model's output of another name",
        "story",
        (replace(STORY, '"text_output"', '"output_text"'),),
        'writes output "output_text"; outputs of config.pbtxt are allowed',
    ),
)

"""README.md of a repository: what is served, how the server is started, a request to try."""

import json
import shlex
from pathlib import Path

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME, TritonDescription
from llmopt.triton.releases import TritonRelease
from llmopt.triton.server_arguments import list_start_arguments

README_NAME = "README.md"
TEMPLATE = """\
# {name}

A model repository for NVIDIA's Triton Inference Server, of shape {shape}, written by llmopt, which
it does not need:

{models}

Start the server in this folder; `$NGC` is where NVIDIA's containers are pulled from, as the page of
`tritonserver` in NGC names it:

```
docker run --rm {gpus}--shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 \\
  -v "$PWD:{mount}:ro" "$NGC/{image}" \\
  {start}
```

Then ask it:

```
curl -s localhost:8000/v2/models/{name}/{method} \\
  -d {body}
```
"""


def write_readme(
    repository: Path,
    description: TritonDescription,
    release: TritonRelease,
    mount: str,
    *,
    lacks_packages: bool,
) -> None:
    """Writes README.md.

    Args:
        repository: Where it goes; its models' configs lie there.
        description: What is served.
        release: Whose container serves it.
        mount: Where the repository is mounted on the server.
        lacks_packages: Whether the container's Python needs what requirements.txt names.
    """
    arguments = list_start_arguments(repository, description)
    is_single_pass = description.shape == "ensemble"
    text = TEMPLATE.format(
        name=description.model_name,
        shape=description.shape,
        models="\n".join(
            f"- `{model.name}`: {model.role}, backend {model.backend}"
            for model in description.models
        ),
        gpus="--gpus all " if description.device == "cuda" else "",
        mount=mount,
        image=release.vllm_image if description.shape == "vllm" else release.image,
        start=_write_start(mount, arguments, lacks_packages=lacks_packages),
        method="infer" if is_single_pass else "generate",
        body=shlex.quote(json.dumps(_make_request(description), ensure_ascii=False)),
    )
    (repository / README_NAME).write_text(text, encoding="utf-8")


def _write_start(mount: str, arguments: tuple[str, ...], *, lacks_packages: bool) -> str:
    start = " ".join((f"tritonserver --model-repository={mount}", *arguments))
    if not lacks_packages:
        return start
    return f'bash -c "pip install -q -r {mount}/{REQUIREMENTS_NAME} && {start}"'


def _make_request(description: TritonDescription) -> dict[str, object]:
    prompt = description.prompt
    if description.shape == "ensemble":
        text = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [prompt]}
        return {"inputs": [text]}
    sampling = {"max_tokens": 64, "temperature": 0}
    if description.shape == "vllm":
        return {"text_input": prompt, "sampling_parameters": json.dumps(sampling)}
    return {"text_input": prompt, **sampling}

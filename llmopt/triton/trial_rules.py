"""What the server that llmopt fetches does not run, known from a repository's shape alone."""

from llmopt.artifacts.triton_description import RepositoryShape
from llmopt.errors import IncompatibleError


def check_trial(asker: str, name: str, shape: RepositoryShape | None, *, has_engine: bool) -> None:
    """Refuses to try a repository that this server would not load.

    Args:
        asker: What wants to try it, such as `smoke: true`.
        name: Of the repository or of its model.
        shape: The repository's; None where it is not known yet.
        has_engine: Whether it serves a TensorRT engine.

    Raises:
        IncompatibleError: Says why.
    """
    if shape != "vllm" and not has_engine:
        return
    lack = "has no vllm backend" if shape == "vllm" else "computes on the CPU"
    served = "a checkpoint with vLLM" if shape == "vllm" else "a TensorRT engine"
    raise IncompatibleError(
        f"{asker} asks the server that llmopt doctor --get tritonserver fetches, which {lack}; "
        f"{name} serves {served}",
        remedy="leave it out here, and ask the repository in NVIDIA's container on a GPU",
    )

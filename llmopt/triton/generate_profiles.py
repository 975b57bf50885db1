"""Which of an engine's profiles text is generated with: one for prompts, one for what follows."""

from collections.abc import Sequence

from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.errors import IncompatibleError

Profiles = Sequence[OptimizationProfile]
AXES = ("batch", "sequence", "past_sequence")


def choose_prefill(profiles: Profiles) -> OptimizationProfile:
    """Returns the profile that takes the longest prompts, of several the one with most rows.

    Raises:
        IncompatibleError: None takes a lone prompt of any length up to its maximum.
    """
    found = [p for p in profiles if _has_axes(p) and _prefills(p)]
    if not found:
        raise _lacks("prefill", "batch and sequence from 1, past_sequence from 0")
    return max(found, key=lambda p: (p.axes["sequence"].max, p.axes["batch"].max))


def choose_decode(profiles: Profiles, max_running: int) -> OptimizationProfile:
    """Returns the profile that decodes so many rows over the longest past.

    Raises:
        IncompatibleError: None decodes from the first token on, or none so many rows.
    """
    found = [p for p in profiles if _has_axes(p) and _decodes(p)]
    if not found:
        raise _lacks("decode", "batch and past_sequence from 1, sequence 1")
    most = max(p.axes["batch"].max for p in found)
    if max_running > most:
        raise IncompatibleError(
            f"max_batch_size is {max_running}; the engine decodes {most} rows at once",
            remedy=f"set max_batch_size: {most}, or build the engine for more",
        )
    wide = [p for p in found if p.axes["batch"].max >= max_running]
    return max(wide, key=lambda p: p.axes["past_sequence"].max)


def _lacks(kind: str, shape: str) -> IncompatibleError:
    return IncompatibleError(
        f"the engine has no profile to {kind} with ({shape})",
        remedy=f"add one to profiles: of build.tensorrt, named {kind}",
    )


def _has_axes(profile: OptimizationProfile) -> bool:
    return all(axis in profile.axes for axis in AXES)


def _prefills(profile: OptimizationProfile) -> bool:
    batch, new, past = (profile.axes[axis] for axis in AXES)
    return batch.min <= 1 and new.min <= 1 < new.max and past.min == 0


def _decodes(profile: OptimizationProfile) -> bool:
    batch, new, past = (profile.axes[axis] for axis in AXES)
    return batch.min <= 1 and new.min <= 1 and past.min <= 1 <= past.max

"""When to strike a running llmopt: chosen by what it has reached, not by the clock alone."""

import time
from dataclasses import dataclass

from tests.e2e.workplace import Job, Run, Workplace


@dataclass(frozen=True)
class Moment:
    """A moment in a run: `delay_s` after it reached a stage.

    Attributes:
        stage: "loading", or what just happened: a "block" was journaled, the "merge" of the
            blocks, the "seal" or the "publication" has begun.
        num_blocks: For "block", how many blocks must be journaled.
        delay_s: How long after that.
    """

    stage: str
    num_blocks: int = 0
    delay_s: float = 0.0

    def is_reached(self, place: Workplace, job: Job) -> bool:
        """Tells whether a run has got this far."""
        if self.stage == "loading":
            return place.store.exists()
        if self.stage == "block":
            return place.count_journaled(job) >= self.num_blocks
        if self.stage == "merge":
            return bool(place.find_work(job, "model.safetensors"))
        if self.stage == "seal":
            return bool(place.find_work(job, "*manifest.json*"))
        assert self.stage == "publication", self.stage
        return (place.folder / job.artifact).exists() and not place.find_work(job, "journal.json")

    def await_in(self, run: Run, place: Workplace, job: Job) -> bool:
        """Waits for the moment; False if the run ended before."""
        if not run.wait_for(lambda: self.is_reached(place, job)):
            return False
        time.sleep(self.delay_s)
        return run.process.poll() is None

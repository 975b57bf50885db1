"""What was made, for people: one page of an artifact or a run, and what two artifacts differ in."""

"""Running a model over pictures."""

"""The loops: one file per kind of training, and what they share."""

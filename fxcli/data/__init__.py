"""Pictures: found (scan), read, cleaned and fitted (preprocess), divided (split), listed (manifest), augmented."""

"""One file per command: its options, its help, and the order of its steps."""

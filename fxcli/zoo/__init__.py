"""The zoo: what plugins may register (specs), how (hookspecs), and how they are found (plugins)."""

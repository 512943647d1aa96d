"""Measures quire against the tools people use today. `bench/README.md` says what and how."""

"""Everything in the repository that is derived from the code: `make docs` writes it, `make docs CHECK=1` compares."""

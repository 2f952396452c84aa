"""A study: methods side by side on tiny models, several seeds each, through verl's own trainer.

`schema` reads what is to be run, `run` runs it one cell at a time, `results` is the file that a cell leaves.
`measures`, `claims`, `figures` and `page` make docs/study.md of these files.
"""

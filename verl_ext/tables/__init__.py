"""The papers' tables as data, and the chain that obtains their rows: plan, run, report."""

"""The papers' tables as they are written in recipes/: reading and checking them, before anything is composed."""

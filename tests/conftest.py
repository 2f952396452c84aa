"""Settings of Hypothesis for every test."""

from hypothesis import settings

# Its limit of 0.2 s an example fails tests on a machine that has other work, and not the same ones in every order.
settings.register_profile("verl_ext", deadline=None)
settings.load_profile("verl_ext")

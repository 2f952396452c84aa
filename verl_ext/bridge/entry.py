"""What verl loads from us (entry point group ``verl.plugins``), at the end of ``import verl``.

verl only imports this module, in every process, and swallows exceptions at debug level. So this file stays small
enough not to fail, and turns a failure of the rest into something that is seen: a warning at once, and an error as
soon as a configuration asks for anything of ours.
"""

from verl_ext.bridge import failure

try:
    from verl_ext.bridge.install import install

    install()
except Exception as error:  # every kind of failure is reported; none may hide behind verl's debug level
    failure.announce(error)

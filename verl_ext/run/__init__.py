"""What every run gets: settings, name, state, watchdog, guards, checkpoints and token export."""

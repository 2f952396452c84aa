"""The task that the CPU models learn, the models, and how both are made."""

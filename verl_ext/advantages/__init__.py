"""Advantage estimators: one file a method, pure functions of tensors and floats, no verl import."""

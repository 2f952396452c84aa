"""What of verl works with our methods, what is refused, and what nobody ran; docs/compatibility.md is made from it."""

"""The bench: starts servers, loads them in turn, and reports what they did. `cli` is where it begins."""

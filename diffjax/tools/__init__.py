"""Tools that answer questions about a config or a failed run, as commands."""

"""Shared by all compiled code: decorators with a safe cache, threads, sorting by score."""

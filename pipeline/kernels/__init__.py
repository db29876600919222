"""What all compiled code shares: decorators with a safe cache, threads, sorting by score."""

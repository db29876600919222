"""`make bench-gpu`: how busy a GPU is kept, see docs/benchmarks.md."""

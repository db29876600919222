"""What `make bench` runs: our kernels beside their peers, on seeded workloads, in one run."""

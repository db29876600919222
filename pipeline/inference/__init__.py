"""A trained detector over photos: views, batches, threads; what it costs and how fast it is."""

"""`make torture`: damaged inputs, killed stages and hostile machines, with a fresh seed each time."""

"""What training one fold is, for every framework: the job, the session, checkpoints, recovery, the loop."""

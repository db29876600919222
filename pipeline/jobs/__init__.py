"""Many trainings side by side on Ray: what they need, who runs them, what is shown of them.

A job is a row of commands, the stages as a user would type them, each in a process of its own. Ray
decides where a job runs and says when its worker or node is gone; everything that a job must not lose
lies in its run's folder, so that on a cluster `runs/`, `folds/` and the data must be the same folder on
every node.
"""

"""The batch script of Slurm, and what it asks."""

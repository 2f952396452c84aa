"""Running a training on a cluster: as a job of Ray's job server, or as a script for Slurm or a manifest for KubeRay."""

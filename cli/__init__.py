"""Commands, and the assembly and supervision of processes: the one place that imports everything."""

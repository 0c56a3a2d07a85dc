"""What the control process and a picker process say to each other: both ends, without I/O."""

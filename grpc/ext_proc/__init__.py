"""The protocol of an ext_proc stream: messages in, answers out, without I/O."""

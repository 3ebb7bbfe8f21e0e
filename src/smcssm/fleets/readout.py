"""Read-outs of a whole fleet."""

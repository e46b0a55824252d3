"""The service: the champion of the graph behind HTTP."""

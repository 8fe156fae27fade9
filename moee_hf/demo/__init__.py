"""The demonstration: texts compared, a corpus searched, routing shown, in a browser."""

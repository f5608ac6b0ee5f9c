"""The methods, one per file, each an `Optimizer`."""

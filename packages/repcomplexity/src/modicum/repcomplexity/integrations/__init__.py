"""What needs another library, one module per library, each imported when it is asked for."""

"""What needs another library, one module per library or model family, imported when asked for."""

"""The watermark inside generation engines, one module per engine; nothing is imported here."""

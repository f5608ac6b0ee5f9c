"""When to stop drawing samples: one rule per file, one interface (`base.StoppingRule`)."""

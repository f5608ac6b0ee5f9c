"""Which expert answers next: one controller per file, one interface (`base.Controller`)."""

"""Rules that say which tokens are committed, all behind one protocol."""

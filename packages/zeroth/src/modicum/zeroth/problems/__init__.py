"""Problems with a known optimum."""

"""Where engines and other libraries are met; the only place that imports them."""

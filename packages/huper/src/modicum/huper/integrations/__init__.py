"""What needs other libraries; each module says which."""

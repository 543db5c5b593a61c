"""When training ruins a language model for 4-bit deployment, and what keeps it deployable."""

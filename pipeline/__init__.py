"""int4-collapse: when does training ruin a model for 4-bit deployment, and what keeps it deployable?"""

__version__ = "0.1.0"

"""The mechanism of the damage's growth: error size, sensitivity and alignment along training.

``control_losses`` holds what was measured, ``growth_shares`` splits a growth and names its cause, ``quiet_gap`` reads
the part of the damage that is free of the accident of rounding, ``mechanism_report`` and ``explain`` put them together
for ``report.json``, and ``mechanism_words`` makes every sentence.
"""

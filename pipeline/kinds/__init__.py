"""Kinds of work, one file each: request, worker's part, reduction and report.

They are above analysis and report, whose parts they combine. Lower packages find them by name, in the registry of
``pipeline.runs.kind_of_work``.
"""

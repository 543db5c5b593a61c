"""Kinds of work, one file each: what is asked, what a worker does, what the reduction and the report make of it.

They stand above the analysis and the report, whose parts they put together. Those below find them by name, in the
registry of ``pipeline.runs.kind_of_work``.
"""

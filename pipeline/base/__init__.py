"""What every room stands on: errors, files, retries, the event log, plug-ins. Imports nothing else of the project."""

"""The base of all packages: errors, files, retries, the event log, plug-ins. Imports nothing else of the project."""

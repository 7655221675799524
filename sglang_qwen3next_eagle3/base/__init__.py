"""What every room uses, each act once: files, folders, processes, errors, progress, secrets."""

__all__ = [
    "accept_length",
    "errors",
    "event_stream",
    "figures",
    "files",
    "findings",
    "processes",
    "progress",
    "provenance",
    "records",
    "redact",
    "schema",
    "secrets",
    "workfolder",
]

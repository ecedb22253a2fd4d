"""The HTTP API: notifications in, incidents and controls out."""

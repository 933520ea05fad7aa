"""The door: HTTP in, problem+json or transcripts out."""

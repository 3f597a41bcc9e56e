"""What is known at the end: verdicts, their accounting, the terminal card and `certificate.json`."""

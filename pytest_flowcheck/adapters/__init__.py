"""Bundled subjects by name. Each module lists `SUBJECTS`: name -> attribute; importing one imports no engine."""

"""The application around a run: settings, checks, preflight, build, launch, resume."""

"""Models: denoisers and generators as functions of their parameters, and their folders."""

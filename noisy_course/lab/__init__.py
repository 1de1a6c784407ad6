"""The laboratory around the course: plain modules that lessons never import."""

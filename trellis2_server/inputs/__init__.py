"""Client uploads: pictures and mesh files."""

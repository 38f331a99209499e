"""Client uploads: base64 text, pictures and mesh files."""

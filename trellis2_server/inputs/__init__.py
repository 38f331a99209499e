"""What clients upload: pictures, their cut-outs, and mesh files."""

"""Client uploads: pictures (`images`, `background`) and mesh files (`meshes`).

`foreign_files` says what a file is that is neither, or in the wrong field.
"""

"""Client uploads: pictures and mesh files.

images, background   pictures
meshes               mesh files
foreign_files        what a file is that is neither, or in the wrong field
"""

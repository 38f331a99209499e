"""The exporter's steps `bake` and `group_faces` in PyTorch, for fields on a device.

The steps and rules are those of the compiled loops. Imported only if a field's arrays are tensors.
Tested against the loops with tensors on the CPU; not run or timed on a GPU yet.
"""

"""Runs Tencent's add-on inside Blender: `python blender_addon_run.py ADDON JOB.json`.

Blender has no window and no event loop here, so this script stands in for them in three
places: `execute` gives the operator its `invoke` and waits for its thread, what the add-on
registers as a timer is called, and an error that it reports is kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import bpy


def load_addon(path: str):
    spec = importlib.util.spec_from_file_location("hunyuan_addon", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(addon_path: str, job_path: str) -> None:
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    addon = load_addon(addon_path)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    addon.register()
    timers = []
    bpy.app.timers.register = lambda function, **_: timers.append(function)
    operator = addon.Hunyuan3DOperator
    bpy.utils.unregister_class(operator)

    def execute(self, context):
        outcome = self.invoke(context, None)
        if self.thread is not None:
            self.thread.join(job["patience_s"])
        for timer in timers:
            timer()
        return {"FINISHED"} if outcome == {"RUNNING_MODAL"} else outcome

    operator.execute = execute
    bpy.utils.register_class(operator)
    selected = None
    if job.get("mesh"):
        if job["mesh"] == "monkey":
            bpy.ops.mesh.primitive_monkey_add()
        else:
            bpy.ops.import_scene.gltf(filepath=job["mesh"])
        selected = next(o for o in bpy.context.selected_objects if o.type == "MESH")
        selected.location = (1, 2, 3)
        selected.rotation_mode = "XYZ"
        selected.rotation_euler = (0.1, 0.2, 0.3)
        selected.scale = (2, 1, 1)
        bpy.context.view_layer.objects.active = selected
        bpy.context.view_layer.update()
    before = set(bpy.data.objects)
    for name, value in job["properties"].items():
        setattr(bpy.context.scene.gen_3d_props, name, value)
    error = None
    try:
        bpy.ops.object.generate_3d()
    except RuntimeError as raised:  # what the operator reported as an error
        error = str(raised)
    arrived = [describe(o) for o in bpy.data.objects if o not in before and o.type == "MESH"]
    result = {"error": error, "arrived": arrived}
    if selected is not None:
        result["selected"] = describe(selected)
    if job.get("save"):
        bpy.ops.wm.save_as_mainfile(filepath=job["save"])
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def describe(thing) -> dict:
    bpy.context.view_layer.update()
    mesh = thing.data
    points = [vertex.co for vertex in mesh.vertices]
    images = [
        [node.image.size[0], node.image.size[1]]
        for material in mesh.materials
        if material and material.use_nodes
        for node in material.node_tree.nodes
        if node.type == "TEX_IMAGE" and node.image
    ]
    return {
        "name": thing.name,
        "location": list(thing.location),
        "rotation": list(thing.matrix_world.to_euler()),
        "scale": list(thing.scale),
        "hidden": thing.hide_render,
        "low": [min(p[axis] for p in points) for axis in range(3)],
        "high": [max(p[axis] for p in points) for axis in range(3)],
        "faces": len(mesh.polygons),
        "materials": [material.name for material in mesh.materials if material],
        "images": images,
        "uvs": len(mesh.uv_layers),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # Blender as a module does not always leave cleanly

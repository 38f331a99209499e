"""Run Tencent's add-on inside Blender: `python blender_addon_run.py ADDON JOB.json`.

Blender runs without a window and an event loop, so this script replaces them: `execute` calls
the operator's `invoke` and waits for its thread, then calls the timers that the add-on has
registered. Errors that the add-on reports are part of the result.
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
            self.thread.join(job["timeout_s"])
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
    except RuntimeError as raised:  # an error that the operator reported
        error = str(raised)
    imported = [describe(o) for o in bpy.data.objects if o not in before and o.type == "MESH"]
    result = {"error": error, "imported": imported}
    if selected is not None:
        result["selected"] = describe(selected)
    if job.get("save"):
        bpy.ops.wm.save_as_mainfile(filepath=job["save"])
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def describe(blender_object) -> dict:
    bpy.context.view_layer.update()
    mesh = blender_object.data
    points = [vertex.co for vertex in mesh.vertices]
    images = [
        [node.image.size[0], node.image.size[1]]
        for material in mesh.materials
        if material and material.use_nodes
        for node in material.node_tree.nodes
        if node.type == "TEX_IMAGE" and node.image
    ]
    return {
        "name": blender_object.name,
        "location": list(blender_object.location),
        "rotation": list(blender_object.matrix_world.to_euler()),
        "scale": list(blender_object.scale),
        "hidden": blender_object.hide_render,
        "low": [min(p[axis] for p in points) for axis in range(3)],
        "high": [max(p[axis] for p in points) for axis in range(3)],
        "faces": len(mesh.polygons),
        "materials": [material.name for material in mesh.materials if material],
        "images": images,
        "uvs": len(mesh.uv_layers),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # Blender as a module does not always exit cleanly

"""Background removal: find the object in a picture without transparency.

model            a background model, loaded once, on first use
rembg_session    opens rembg's models
deferred_import  imports rembg without compiling what it does not use here
grabcut          from colour alone, for plain backgrounds
masks            model mask → alpha
foreground       the object's colour at soft edges

`trellis2_server.inputs.images.cutter` chooses between the methods.
"""

from trellis2_server.inputs.background.model import BackgroundModel, ModelPending

__all__ = ["BackgroundModel", "ModelPending"]

"""Background removal: find the object in a picture without transparency.

model            a background model, loaded once, on first use
opening          loads a model, and has its files fetched first if needed
prefetch         has them fetched when the server starts
rembg_session    loads rembg's models, and calls them
model_files      where rembg's models lie, and whether they are whole
fetcher, fetch   download them, in a process of its own
fetch_state      how far that is
deferred_import  imports rembg without compiling what it does not use here
objects          picture and outline → the object
grabcut          outline from colour alone, for plain backgrounds
masks            model mask → alpha
foreground       the object's colour at soft edges

`trellis2_server.inputs.images.cutter` chooses between the methods. In a server, models and
OpenCV run in processes of their own: `trellis2_server.decoders.background`.
"""

from trellis2_server.inputs.background.fetch_state import FetchState
from trellis2_server.inputs.background.model import BackgroundModel, ModelPending

__all__ = ["BackgroundModel", "FetchState", "ModelPending"]

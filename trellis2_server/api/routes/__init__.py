"""The routes, one module per protocol or topic."""

from trellis2_server.api.routes import export, files, hunyuan, jobs, monitoring, native, pictures

#: Routers of the API, in the order in which their routes are matched.
ROUTERS = (
    hunyuan.router,
    jobs.router,
    pictures.router,  # before the files, whose route would match
    files.router,
    export.router,
    native.router,
    monitoring.router,
)

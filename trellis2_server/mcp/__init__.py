"""Server of the Model Context Protocol (MCP): the models of a server as tools for agents.

`python -m trellis2_server.mcp --server URL` is a client of the HTTP API, in a process of its own.
It needs the package `mcp`, which is imported when it starts.

    command.py          command line
    tools.py            the tools
    results.py          what they return
    files.py            pictures and meshes of arguments; files that are written
    remote_files.py     files by URL

Does not know: the server, apart from its client and `public_addresses`.
"""

"""An HTTP server: one backbone in memory that chats, embeds with several checkpoints, and decodes.

    config.py      what the server is told; no torch
    checkpoints.py which checkpoints are served, by name; each proves its golden vectors before it answers
    engine/        the one thread that owns the model: queue, batches, texts being written
    schemas/       requests and responses; OpenAI's where OpenAI has one
    routes/        one file per group of routes
    app.py         puts routes, keys, limits, errors and metrics together
    serve.py       the function of that name; imports the server's libraries only when it is called
    server.py      the process: sockets, signals, draining
    auth.py limits.py errors.py problems.py metrics.py logs.py messages.py page.py

Be careful: only the engine's thread may touch the model. Routes hand it jobs and wait.
"""

"""One file per engine that runs jobs. Each has `render(job)`, what the engine reads, and
`commands(job, action)`, the command lines for an action of process.ACTIONS.
"""

"""What a schedule and a layout would do, before they are paid for.

The scheduling code of the engine itself, under a clock that jumps: only what does the work
(servers, renderer, learners, processors) is simulated here.
"""

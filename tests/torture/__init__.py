"""Runs of the graph while something goes wrong, each followed by one in which nothing does.

    python -m tests.torture --seed S --n N

Whatever went wrong, the state at the end is that of runs that nothing happened to, to the bit; a reader who looks on
sees the old artifacts or the new ones; no process, connection or half-written file is left; and what the disturbed
run says is not a traceback.
"""

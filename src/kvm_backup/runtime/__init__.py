"""Durable execution: workflows on DBOS, the queue, the tick of the scheduler, recovery."""

"""A streamed answer put together again, in the dialect it was streamed in: as one body, and as a short stream.

The read side of jobs calls ``assembly.Assembly`` with what stands in a job's log.  Nothing here is translated, priced
or judged: how the answer ended is the job's to say.
"""

"""The parts of a job's report: what is read, worked out, drawn and written as one page."""

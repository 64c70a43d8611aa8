"""From a call to a job that is checked and planned, and to an output folder that is its own."""

"""A model measured on a machine: which settings, in what order, by which processes, and what is to be made of it."""

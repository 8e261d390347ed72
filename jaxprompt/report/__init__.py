"""Pages: a run, many runs, charts; they read records alone."""

"""Where calls come from: generated streams (:mod:`~pyalloc.workload.streams`)."""

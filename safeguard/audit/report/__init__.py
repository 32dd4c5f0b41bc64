"""The page that people read: ``summary`` folds a run, the other modules write the parts of ``page``."""

"""A model on this machine as a teacher."""

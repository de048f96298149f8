"""From a folder of videos to a dataset that the training reads."""

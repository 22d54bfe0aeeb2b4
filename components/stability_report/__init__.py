"""One page, and the same as JSON, of all that a run of training and its data checks found."""

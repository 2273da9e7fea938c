from hypothesis import settings

# No deadline: timings of a busy machine say nothing. Derandomised: a run is a verdict on the code, not on
# luck.
settings.register_profile("certify", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("certify")

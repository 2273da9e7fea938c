from hypothesis import settings

# No deadline, because times on a busy machine vary. Derandomised, so that a result depends on the code alone.
settings.register_profile("certify", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("certify")

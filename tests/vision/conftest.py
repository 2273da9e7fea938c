import service  # noqa: F401  repairs the imports of transformers, which the tests here import first

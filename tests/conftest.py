import jax

jax.config.update("jax_enable_x64", True)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: long brute-force runs, deselected with -m 'not slow'")
